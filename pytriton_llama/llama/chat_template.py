"""A checkpoint's chat template: somebody else's Jinja program, run in a sandbox."""

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.config import read_json

_MAX_LINES = 5_000_000  # of the compiled template, seconds; a long chat runs some ten thousand
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode's noncharacters: no text needs them


class ChatTemplate:
    """``source`` is empty where the checkpoint has no template; rendering then raises."""

    def __init__(self, source: str, tokens: dict[str, str]):
        self.source = source
        self._tokens = tokens  # bos_token, eos_token, …

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTemplate":
        """From ``chat_template.jinja``, else from ``tokenizer_config.json``."""
        file = folder / "tokenizer_config.json"
        values = read_json(file) if file.exists() else {}
        source = values.get("chat_template") or ""
        if isinstance(source, list):  # several templates, by name
            source = {entry["name"]: entry["template"] for entry in source}.get("default", "")
        if (folder / "chat_template.jinja").exists():
            source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        tokens = {}
        for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
            token = values.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None:
                tokens[key] = token
        return cls(source, tokens)

    def render(self, messages: Sequence[dict[str, str]], controls: Sequence[str]) -> tuple[str, str]:
        """The prompt up to the assistant's turn, and a mark.

        The mark stands after the first character of each of the strings ``controls`` in a message, and of
        each beginning of one at a message's end: the next message may hold the rest. Without the marks, every
        message is as it was typed.
        """
        if not self.source:
            raise LlamaError("this checkpoint has no chat template: use generate instead of chat")
        texts = [text for message in messages for text in message.values()]
        mark = next((mark for mark in _MARKS if not any(mark in text for text in texts)), None)
        if mark is None:
            raise LlamaError("the messages use up all of Unicode's noncharacters")
        pattern = _first_characters(controls)
        marked = [{key: pattern.sub(rf"\g<0>{mark}", text) for key, text in m.items()} for m in messages]
        return self._run(marked), mark

    def _run(self, messages: list[dict[str, str]]) -> str:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        lines = 0

        def count(frame, event, _):
            nonlocal lines
            lines += 1
            if lines > _MAX_LINES:
                raise TemplateError(f"more than {_MAX_LINES} lines executed")
            return count

        def enter(frame, event, argument):
            return count if frame.f_code.co_filename == "<template>" else None

        tracer = sys.gettrace()
        try:
            template = environment.from_string(self.source)
            sys.settrace(enter)  # the sandbox stops no endless loop
            return template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._tokens
            )
        except Exception as error:  # a template can raise anything
            raise LlamaError(f"chat template: {' '.join(str(error).split()) or type(error).__name__}") from error
        finally:
            sys.settrace(tracer)


def _first_characters(controls: Sequence[str]) -> re.Pattern[str]:
    """Matches the first character of a control token, or of a beginning of one at the end of a text."""
    if not controls:
        return re.compile("(?!)")
    firsts = "".join(sorted({re.escape(control[0]) for control in controls}))
    whole = {re.escape(control[1:]) for control in controls}
    begun = {re.escape(control[1:end]) + r"\s*\Z" for control in controls for end in range(1, len(control))}
    return re.compile(f"[{firsts}](?={'|'.join(sorted(whole | begun))})")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # Jinja's own escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
