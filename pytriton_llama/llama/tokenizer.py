"""Text to token ids and back, and chats to prompts.

What a user types never becomes a control token: ``<|im_end|>`` inside a prompt or a message is text. The
tokenizer that encodes knows its control tokens only under secret names, drawn at random when it is loaded; those
that the chat template writes get these names after rendering, those that a user types never do. The prompt is
encoded in one piece, so that ordinary text is split exactly as the checkpoint's authors had it.
"""

import json
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.chat_template import ChatTemplate
from pytriton_llama.llama.config import LlamaConfig, read_json


class Stream(Protocol):
    def step(self, token_id: int) -> str:
        """The text that this token completes: nothing while inside a UTF-8 character."""

    def flush(self) -> str:
        """What is left at the end. All pieces joined are ``decode`` of all ids."""


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]:
        """Ids, with what the checkpoint puts around a text (begin-of-text); control tokens stay text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text without control tokens; bytes that are no UTF-8 become U+FFFD."""

    def stream(self) -> Stream:
        """A decoder that takes one id after another."""

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of the prompt for the assistant's next turn; a message has a ``role`` and a ``content``."""


def load(folder: str | Path, config: LlamaConfig) -> Tokenizer:
    """The tokenizer of a checkpoint's folder. Raises :class:`LlamaError` where it is missing or broken."""
    file = Path(folder) / "tokenizer.json"
    if not file.exists():
        raise LlamaError(f"{folder}: holds no tokenizer.json")
    tokenizer = JsonTokenizer(read_json(file), ChatTemplate.from_folder(Path(folder)), file)
    if tokenizer.size > config.vocab_size:
        raise LlamaError(f"{file}: {tokenizer.size} tokens, but the config's vocab_size is {config.vocab_size}")
    return tokenizer


class JsonTokenizer:
    """``tokenizer.json``, through the ``tokenizers`` library."""

    def __init__(self, spec: dict[str, Any], template: ChatTemplate, file: Path):
        self._template = template
        try:
            self._decoder = _from_spec(spec)
            added = self._decoder.get_added_tokens_decoder()
            # Special tokens, and what the chat template writes though the file calls it ordinary (`<think>`).
            self._secrets = {
                token.content: f"\uffff{secrets.token_hex(8)}{token.content}"
                for token in added.values()
                if token.special or (token.content in template.source and not token.content.isspace())
            }
            self.skipped = {i for i, token in added.items() if token.special}
            self._encoder = _from_spec(_renamed(spec, self._secrets))
            self.size = max(self._decoder.get_vocab().values()) + 1
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise LlamaError(f"{file}: not a usable tokenizer: {error}") from error
        for name, secret in self._secrets.items():
            if self._encoder.token_to_id(secret) != self._decoder.token_to_id(name):
                raise LlamaError(f"{file}: the id of control token {name!r} is not the one the file declares")

    def encode(self, text: str) -> list[int]:
        return self._encoder.encode(text).ids

    def decode(self, ids: Iterable[int]) -> str:
        return self._decoder.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> Stream:
        return _Stream(self)

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        names = sorted(self._secrets, key=len, reverse=True)
        rendered, mark = self._template.render(messages, names)
        if names:
            rendered = re.sub("|".join(map(re.escape, names)), lambda m: self._secrets[m[0]], rendered)
        return self._encoder.encode(rendered.replace(mark, ""), add_special_tokens=False).ids

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is a single byte (``<0xE4>``) of a character that has no token of its own."""
        return re.fullmatch("<0x[0-9A-F]{2}>", self._decoder.id_to_token(token_id) or "") is not None


class _Stream:
    """Decodes a window that starts at the text given out last, so that a token's neighbours are seen."""

    def __init__(self, tokenizer: JsonTokenizer):
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._given = 0  # ids at the window's start whose text has been given out

    def step(self, token_id: int) -> str:
        if token_id in self._tokenizer.skipped:
            return ""
        self._window.append(token_id)
        text = self.flush()
        # A run of byte tokens is decoded as a whole, and only its end tells how.
        if not text or text.endswith("\ufffd") or self._tokenizer.is_byte(token_id):
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return text

    def flush(self) -> str:
        before = self._tokenizer.decode(self._window[: self._given])
        return self._tokenizer.decode(self._window)[len(before) :]


def _from_spec(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
    tokenizer.no_truncation()  # some files keep the settings of their training run
    tokenizer.no_padding()
    return tokenizer


def _renamed(spec: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The file with control tokens under other names, and with no merge that could build one from text."""
    model = spec["model"]
    if not isinstance(model.get("vocab"), dict):
        raise LlamaError(f"model type {model.get('type')!r} is not supported (only BPE)")
    merges = []
    for merge in model["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        if not {left, right, left + right} & names.keys():
            merges.append(merge)
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in spec["added_tokens"]]
    secret_ids = {token["content"]: token["id"] for token in added if token["content"] in names.values()}
    model = {
        **model,
        "merges": merges,
        "unk_token": names.get(model.get("unk_token"), model.get("unk_token")),
        "vocab": {token: i for token, i in model["vocab"].items() if token not in names} | secret_ids,
    }
    return {**spec, "model": model, "added_tokens": added}
