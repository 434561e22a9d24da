"""``tokenizer.json``, through the ``tokenizers`` library.

The tokenizer that encodes knows its control tokens only under secret names, drawn at random when it is loaded; those
that the chat template writes get these names after rendering, those that a user types never do. The prompt is
encoded in one piece, so that ordinary text is split exactly as the checkpoint's authors had it.
"""

import json
import math
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.tokenizer.chat_template import ChatTemplate, check_text
from pytriton_llama.llama.tokenizer.detokenizer import Stream

_MAX_GROWTH = 1000  # of a text under all replacements; Llama's put one character for another


class JsonTokenizer:
    """``spec`` is the file's content; ``file`` is named in errors."""

    def __init__(self, spec: dict[str, Any], template: ChatTemplate, file: Path):
        self._file = file
        with _one_line(file):
            self._load(spec, template)
            self._ids("a", True)  # some mistakes show only here
        for name, secret in self._secrets.items():
            if self._encoder.token_to_id(secret) != self._decoder.token_to_id(name):
                raise LlamaError(f"{file}: the id of control token {name!r} is not the one the file declares")

    def _load(self, spec: dict[str, Any], template: ChatTemplate) -> None:
        for part in ("normalizer", "decoder"):
            if _growth(spec.get(part)) > _MAX_GROWTH:
                raise ValueError(f"its {part} makes a text more than {_MAX_GROWTH} times as long")
        self._decoder = _from_spec(spec)
        added = self._decoder.get_added_tokens_decoder()
        self._skipped = {i for i, token in added.items() if token.special}
        self._template = template.or_built_in({added[i].content for i in self._skipped})
        # Special tokens, and what the chat template writes though the file calls it ordinary (`<think>`).
        self._secrets = {
            token.content: f"\uffff{secrets.token_hex(8)}{token.content}"
            for token in added.values()
            if token.special or self._template.writes(token.content)
        }
        self._encoder = _from_spec(_renamed(spec, self._secrets))
        self.size = max(self._decoder.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        check_text(text)
        return self._ids(text, True)

    def decode(self, ids: Iterable[int]) -> str:
        return self._decoder.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> Stream:
        runs = [self._decoder.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        return Stream(self.decode, self._skipped, {i for i in runs if i is not None})

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        names = sorted(self._secrets, key=len, reverse=True)
        rendered, mark = self._template.render(messages, names)
        if names:
            rendered = re.sub("|".join(map(re.escape, names)), lambda m: self._secrets[m[0]], rendered)
        return self._ids(rendered.replace(mark, ""), False)

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        with _one_line(self._file):
            return self._encoder.encode(text, add_special_tokens=add_special_tokens).ids


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """A :class:`LlamaError` for what ``tokenizers`` raises: bare Exceptions, and Rust's panics, which are none."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, LlamaError):
        raise
    except BaseException as error:
        raise LlamaError(f"{file}: not a usable tokenizer: {' '.join(str(error).split())}") from error


def _from_spec(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
    tokenizer.no_truncation()  # some files keep the settings of their training run
    tokenizer.no_padding()
    return tokenizer


def _growth(part: Any) -> int:
    """How often as long replacements in a row can make a text: each may put its content at every character."""
    if isinstance(part, dict):
        own = 1 + len(part["content"]) if "pattern" in part and isinstance(part.get("content"), str) else 1
        return own * _growth(list(part.values()))
    return math.prod(map(_growth, part)) if isinstance(part, list) else 1


def _renamed(spec: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The file with control tokens under other names, and with no merge that could build one from text."""
    model = spec["model"]
    if not isinstance(model.get("vocab"), dict):
        raise ValueError(f"model type {model.get('type')!r} is not supported (only BPE)")
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
