"""Faults in tokenizers, templates and answers."""

FAULTS = {
    "llama/answer.py": [
        (
            "answer: a stop string across tokens is shown",
            "return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stop)), 0)",
            "return 0",
            "llama/test_answer.py::test_ends_before_the_first_stop_string",
        ),
        (
            "answer: the stop string that begins first, not the one complete first",
            "[(at + len(s), at) for",
            "[(at, at) for",
            "llama/test_answer.py::test_the_stop_string_that_is_complete_first",
        ),
        (
            "answer: what the decoder holds back at the end is lost",
            "            self._give(self._decoder.flush())\n",
            "            pass\n",
            "llama/test_answer.py::test_ends_before_the_first_stop_string",
        ),
        (
            "answer: a notebook runs the model's markup",
            "html.escape(str(self.token_ids) if self.text is None else self.text)",
            "str(self.token_ids) if self.text is None else self.text",
            "llama/test_answer.py::test_jupyter_shows_the_text_as_it_is",
        ),
    ],
    "llama/generator.py": [
        (
            "generator: a streamed answer loses its first space",
            "speaks.stream().after(prompt) if speaks",
            "speaks.stream() if speaks",
            "llama/test_generator.py::test_text_goes_on_where_the_prompt_ends",
        ),
    ],
    "llama/gguf_tokenizer.py": [
        (
            "gguf: a user-defined token is taken for a control token",
            "special=kind == _CONTROL",
            "special=True",
            "llama/test_gguf_tokenizer.py::TestByteLevel::test_user_defined_tokens_are_words",
        ),
        (
            "gguf: begin-of-text where none belongs",
            '_adds(fields, "bos", split == "llama-bpe")',
            '_adds(fields, "bos", True)',
            "llama/test_gguf_tokenizer.py::TestByteLevel::test_what_stands_around_a_text",
        ),
    ],
    "llama/tokenizer/detokenizer.py": [
        (
            "detokenizer: half a character is shown",
            'text.endswith("\\ufffd") or ',
            "",
            "llama/test_tokenizer.py::TestStream::test_waits_for_the_whole_character",
        ),
        (
            "detokenizer: a run of single bytes is given out early",
            " or token_id in self._runs",
            "",
            "llama/test_tokenizer_json.py::TestOtherTokenizers::test_metaspace_as_transformers",
        ),
    ],
}
