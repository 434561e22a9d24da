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
        (
            "answer: of stop strings that end together, the first given",
            "given = min(found)[1]",
            "given = min(found, key=lambda f: f[0])[1]",
            "llama/test_answer.py::test_the_stop_string_that_is_complete_first",
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
        (
            "gguf: bytes looked for in a vocabulary without them",
            'trainer.byte_fallback = "<0x00>" in tokens',
            "trainer.byte_fallback = True",
            "llama/test_gguf_tokenizer.py::TestSentencePiece::test_a_vocabulary_without_bytes",
        ),
        (
            "gguf: the key about blanks is not read",
            'bool(fields.get("tokenizer.ggml.remove_extra_whitespaces", False))',
            "False",
            "llama/test_gguf_tokenizer.py::TestSentencePiece::test_blanks_are_merged_where_the_file_says_so",
        ),
        (
            "gguf: the unknown token under the config's name",
            '("unk", "unknown")',
            '("unk", "unk")',
            "llama/test_gguf_tokenizer.py::TestTokenizerConfig::test_what_the_metadata_has",
        ),
        (
            "gguf: one of Llama 3's names for another's split",
            '"llama-v3": "llama-bpe"',
            '"llama-v3": "gpt-2"',
            "llama/test_gguf_tokenizer.py::TestByteLevel::test_splits",
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
    "llama/stream.py": [
        (
            "stream: pieces come after close",
            "        self._steps.close()\n        self._given = len(self._made)",
            "        self._steps.close()",
            "llama/test_stream.py::test_several_pieces_of_one_step",
        ),
        (
            "stream: the last piece for each of a step",
            "return self._made[self._given - 1]",
            "return self._made[-1]",
            "llama/test_stream.py::test_several_pieces_of_one_step",
        ),
        (
            "stream: token 0 ends an event loop's",
            "if piece is None:",
            "if not piece:",
            "llama/test_stream.py::test_several_pieces_of_one_step",
        ),
        (
            "stream: closed while a thread is at work in it",
            "await asyncio.shield(step)",
            "await step",
            "llama/test_stream.py::test_cancelling_waits_for_the_step_under_way",
        ),
    ],
    "llama/tokenizer/json_tokenizer.py": [
        (
            "tokenizer.json: a control token that begins another is read for it",
            "names = sorted(self._secrets, key=len, reverse=True)",
            "names = list(self._secrets)",
            "llama/test_tokenizer_json.py::TestOtherTokenizers::test_a_control_token_that_begins_another",
        ),
        (
            "tokenizer.json: merges that go on from a control token",
            "if not {left, right, left + right} & names.keys()",
            "if not {left + right} & names.keys()",
            "llama/test_tokenizer_json.py::TestOtherTokenizers::test_merges_do_not_build_control_tokens",
        ),
        (
            "tokenizer.json: the unknown token keeps its name",
            'names.get(model.get("unk_token"), model.get("unk_token"))',
            'model.get("unk_token")',
            "llama/test_tokenizer_json.py::TestOtherTokenizers::test_text_that_the_vocabulary_lacks",
        ),
        (
            "tokenizer.json: tokens counted where ids have gaps",
            "max(self._decoder.get_vocab().values()) + 1",
            "self._decoder.get_vocab_size()",
            "llama/test_tokenizer_json.py::test_refuses_a_vocabulary_larger_than_the_models",
        ),
        (
            "tokenizer.json: ids that the file declares otherwise",
            "if self._encoder.token_to_id(secret) != self._decoder.token_to_id(name):",
            "if False:",
            "llama/test_tokenizer_json.py::test_refuses_control_tokens_of_two_ids",
        ),
    ],
    "llama/tokenizer/sentencepiece_tokenizer.py": [
        (
            "tokenizer.model: a control token that begins another is read for it",
            "names = sorted(self._controls, key=len, reverse=True)",
            "names = list(self._controls)",
            "llama/test_tokenizer_model.py::TestSentencePiece::test_added_tokens_by_their_ids",
        ),
        (
            "tokenizer.model: added tokens in the file's order",
            "for i in sorted(map(int, added)):",
            "for i in map(int, added):",
            "llama/test_tokenizer_model.py::TestSentencePiece::test_added_tokens_by_their_ids",
        ),
        (
            "tokenizer.model: id −1 where there is no begin-of-text",
            "if wanted and token_id >= 0",
            "if wanted",
            "llama/test_tokenizer_model.py::TestSentencePiece::test_a_vocabulary_without_begin_of_text",
        ),
        (
            "tokenizer.model: the unknown token is not shown",
            "for i, piece in enumerate(model.pieces) if piece.type == _CONTROL}",
            "for i, piece in enumerate(model.pieces) if piece.type in (2, _CONTROL)}",
            "llama/test_tokenizer_model.py::TestSentencePiece::test_equals_sentencepiece",
        ),
    ],
    "llama/tokenizer/tiktoken_tokenizer.py": [
        (
            "tiktoken: a byte without a token",
            "or any(bytes([byte]) not in ranks for byte in range(256))",
            "",
            "llama/test_tokenizer_model.py::TestBrokenFiles::test_bytes_without_a_token_and_tokens_twice",
        ),
        (
            "tiktoken: a token that stands there twice",
            "if len(ranks) < len(tokens) or any",
            "if any",
            "llama/test_tokenizer_model.py::TestBrokenFiles::test_bytes_without_a_token_and_tokens_twice",
        ),
    ],
    "llama/tokenizer/chat_template.py": [
        (
            "template: blanks that it writes may not be typed",
            "return token in self.source and not token.isspace()",
            "return token in self.source",
            "llama/test_tokenizer_json.py::TestOtherTokenizers::test_added_blanks_stay_words",
        ),
        (
            "template: a token of the config without its name",
            '("bos_token", "eos_token", "unk_token", "pad_token")',
            '("bos_token", "eos_token")',
            "llama/test_tokenizer_templates.py::TestTemplates::test_the_config_s_tokens_by_their_names",
        ),
    ],
}
