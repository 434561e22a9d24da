"""A checkpoint's chat template, from messages to the text of a prompt."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.tokenizer import built_in_templates, render_template

_MAX_SOURCE = 1 << 20  # characters; Llama 3.1's has four thousand
_MAX_SECONDS = 5
_MAX_BYTES = 1 << 30
_MAX_TEXT = 1 << 24  # characters of a prompt; the longest contexts hold a million tokens
_MAX_CONTROLS = 1 << 22  # sum of squared lengths, what their pattern takes; Llama 3's 256 have a quarter of a million
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode's noncharacters: no text needs them


class ChatTemplate:
    """``source`` is empty where the checkpoint has no template; rendering then raises."""

    def __init__(self, source: str, tokens: dict[str, str]):
        self.source = source
        self._tokens = tokens  # bos_token, eos_token, …

    @classmethod
    def from_folder(cls, folder: Path, values: dict[str, Any]) -> "ChatTemplate":
        """From ``chat_template.jinja``, else from ``values``, the content of ``tokenizer_config.json``."""
        source = values.get("chat_template") or ""
        if isinstance(source, list):  # several templates, by name
            named = [entry for entry in source if isinstance(entry, dict)]
            source = next((entry.get("template") for entry in named if entry.get("name") == "default"), "")
        file = folder / "chat_template.jinja"
        if file.is_file():
            try:
                with file.open(encoding="utf-8") as opened:
                    source = opened.read(_MAX_SOURCE + 1)
            except (OSError, UnicodeError) as error:
                raise LlamaError(f"{file}: cannot be read: {error}") from error
        if not isinstance(source, str) or len(source) > _MAX_SOURCE:
            raise LlamaError(f"{folder}: the chat template must be a text of at most {_MAX_SOURCE} characters")
        tokens = {}
        for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
            token = values.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None:
                tokens[key] = token
        return cls(source, tokens)

    def or_built_in(self, controls: Set[str]) -> "ChatTemplate":
        """This one, or where it is empty the one that fits a vocabulary with these control tokens, if any."""
        return self if self.source else ChatTemplate(built_in_templates.choose(controls), {})

    def writes(self, token: str) -> bool:
        """Whether the template names a token, so that nobody may type it."""
        return token in self.source and not token.isspace()

    def render(self, messages: Sequence[dict[str, str]], controls: Sequence[str]) -> tuple[str, str]:
        """The prompt up to the assistant's turn, and a mark.

        The mark stands after the first character of each of the strings ``controls`` in a message, and of
        each beginning of one at a message's end: the next message may hold the rest. Without the marks, every
        message is as it was typed.
        """
        if not self.source:
            raise LlamaError("this checkpoint has no chat template: use generate instead of chat")
        if sum(len(control) ** 2 for control in controls) > _MAX_CONTROLS:
            raise LlamaError("chat template: the vocabulary has too many control tokens, or too long ones")
        texts = [text for message in messages for text in message.values()]
        mark = next((mark for mark in _MARKS if not any(mark in text for text in texts)), None)
        if mark is None:
            raise LlamaError("the messages use up all of Unicode's noncharacters")
        pattern = _first_characters(controls)
        marked = [{key: pattern.sub(rf"\g<0>{mark}", text) for key, text in m.items()} for m in messages]
        rendered = self._run(marked)
        check_text(rendered)
        return rendered, mark

    def _run(self, messages: list[dict[str, str]]) -> str:
        variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        request = {"source": self.source, "variables": variables | self._tokens}
        limits = {"max_seconds": _MAX_SECONDS, "max_bytes": _MAX_BYTES, "max_characters": _MAX_TEXT}
        # -P: the modules beside the script must not stand in for others of the same name.
        child = subprocess.run(
            [sys.executable, "-P", render_template.__file__],
            input=json.dumps(request | limits),
            capture_output=True,
            text=True,
        )
        try:
            reply = json.loads(child.stdout)
        except ValueError:  # ended by a limit
            reply = {"error": f"it takes more than {_MAX_SECONDS} seconds or {_MAX_BYTES >> 20} MiB of memory"}
        if "error" in reply:
            raise LlamaError(f"chat template: {' '.join(reply['error'].split())}")
        return reply["text"]


def check_text(text: str) -> None:
    """Raises :class:`LlamaError` for what is no Unicode: a terminal's broken bytes come as half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LlamaError(f"the text is no valid Unicode: {text[error.start]!r} at position {error.start}") from error


def _first_characters(controls: Sequence[str]) -> re.Pattern[str]:
    """Matches the first character of a control token, or of a beginning of one at the end of a text."""
    if not controls:
        return re.compile("(?!)")
    firsts = "".join(sorted({re.escape(control[0]) for control in controls}))
    whole = {re.escape(control[1:]) for control in controls}
    begun = {re.escape(control[1:end]) + r"\s*\Z" for control in controls for end in range(1, len(control))}
    return re.compile(f"[{firsts}](?={'|'.join(sorted(whole | begun))})")
