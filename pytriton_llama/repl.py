"""``pytriton-llama chat`` without a message: a conversation at the terminal."""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.generator import Llama
from pytriton_llama.llama.sampling import Options

HELP = """\
/system TEXT     what the assistant is told before the conversation; without TEXT, the template's own
/params A=1 B=2  change options, none: the default; without arguments, show them
/reset           forget the conversation
/save FILE       write the conversation, as JSON
/help            this
/quit            end, as Ctrl-D does; Ctrl-C stops an answer"""

PARAMS: dict[str, Callable[[str], float]] = {
    "max_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
}


class Repl:
    """Reads lines from stdin until ``/quit`` or its end. Answers go to stdout, everything about them to stderr.

    Attributes:
        options: of the answers to come.
        system: the system prompt; None: what the chat template says.
        turns: the user's and the assistant's messages in turn.
    """

    def __init__(self, llama: Llama, options: Options) -> None:
        self.llama, self.options = llama, options
        self.system: str | None = None
        self.turns: list[dict[str, str]] = []
        self._commands = {
            "/system": self._set_system,
            "/params": self._set_params,
            "/reset": self._reset,
            "/save": self._save,
            "/help": lambda _: _say(HELP),
        }

    def run(self) -> None:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (input() then edits lines and knows earlier ones)
        _say("/help lists commands; Ctrl-C stops an answer, Ctrl-D ends")
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                _say("")
                continue
            except UnicodeDecodeError as error:
                _say(f"error: the line is no text: {error}")
                continue
            if line == "/quit":
                return
            try:
                self.take(line)
            except LlamaError as error:
                _say(f"error: {error}")

    def take(self, line: str) -> None:
        """Obey a command, or answer a message. Raises :class:`LlamaError`; the conversation is then as before."""
        if not line.startswith("/"):
            if line:
                self._answer(line)
            return
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            raise LlamaError(f"{name} is no command; /help lists them")
        self._commands[name](rest.strip())

    @property
    def messages(self) -> list[dict[str, str]]:
        return ([] if self.system is None else [_message("system", self.system)]) + self.turns

    def _answer(self, text: str) -> None:
        before = list(self.turns)
        self.turns.append(_message("user", text))
        pieces: list[str] = []
        try:
            with self.llama.stream(self._prompt(), **asdict(self.options)) as stream:
                for piece in stream:
                    print(piece, end="", flush=True)
                    pieces.append(piece)
        except LlamaError:
            self.turns = before
            raise
        except KeyboardInterrupt:
            _say(" (stopped)")
        print(flush=True)
        self.turns.append(_message("assistant", "".join(pieces)))

    def _prompt(self) -> list[int]:
        """The conversation's token ids, without as many of the oldest turns as leave no room for an answer."""
        context = self.llama.config.max_position_embeddings
        room = context - min(self.options.max_new_tokens, context // 4)
        forgotten = 0
        while len(ids := self.llama.chat_prompt(self.messages)) > room and len(self.turns) > 1:
            del self.turns[:2]
            forgotten += 2
        if forgotten:
            _say(f"note: the context of {context} tokens is full; the oldest {forgotten} messages are forgotten")
        return ids

    def _set_system(self, text: str) -> None:
        self.system = text or None

    def _set_params(self, text: str) -> None:
        changes: dict[str, Any] = {}
        for word in text.split():
            name, _, value = word.partition("=")
            if name not in PARAMS:
                raise LlamaError(f"{name} is no parameter; known: {', '.join(PARAMS)}")
            try:
                changes[name] = getattr(Options, name) if value == "none" else PARAMS[name](value)
            except ValueError:
                raise LlamaError(f"{name} is {value!r}; it must be a number or none") from None
        self.options = replace(self.options, **changes)
        if not changes:
            shown = {name: getattr(self.options, name) for name in PARAMS}
            _say(" ".join(f"{name}={'none' if value is None else value}" for name, value in shown.items()))

    def _reset(self, _: str) -> None:
        self.turns.clear()

    def _save(self, file: str) -> None:
        try:
            Path(file).write_text(json.dumps(self.messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise LlamaError(f"cannot write {file!r}: {error.strerror}") from error
        except ValueError as error:  # a NUL in the name, or half a character that a terminal gave for text
            raise LlamaError(f"cannot write {file!r}: {error}") from error


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
