"""Faults in the conversation at a terminal."""

FAULTS = {
    "repl.py": [
        (
            "repl: none for what has another default",
            'getattr(Options, name) if value == "none"',
            'None if value == "none"',
            "cli/test_repl.py::test_commands",
        ),
        (
            "repl: turns forgotten for a whole answer's room",
            "min(self.options.max_new_tokens, context // 4)",
            "self.options.max_new_tokens",
            "cli/test_repl.py::test_a_quarter_of_the_context_is_room_enough_for_an_answer",
        ),
        (
            "repl: turns forgotten that just fit",
            "while len(ids := self.llama.chat_prompt(self.messages)) > room",
            "while len(ids := self.llama.chat_prompt(self.messages)) >= room",
            "cli/test_repl.py::test_a_quarter_of_the_context_is_room_enough_for_an_answer",
        ),
    ],
}
