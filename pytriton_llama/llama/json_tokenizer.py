"""``tokenizer.json``, through the ``tokenizers`` library.

The tokenizer that encodes knows its control tokens only under secret names, drawn at random when it is loaded; those
that the chat template writes get these names after rendering, those that a user types never do. The prompt is
encoded in one piece, so that ordinary text is split exactly as the checkpoint's authors had it.
"""

import json
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.chat_template import ChatTemplate, check_text
from pytriton_llama.llama.detokenizer import Stream


class JsonTokenizer:
    """``spec`` is the file's content; ``file`` is named in errors."""

    def __init__(self, spec: dict[str, Any], template: ChatTemplate, file: Path):
        try:
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
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise LlamaError(f"{file}: not a usable tokenizer: {error}") from error
        for name, secret in self._secrets.items():
            if self._encoder.token_to_id(secret) != self._decoder.token_to_id(name):
                raise LlamaError(f"{file}: the id of control token {name!r} is not the one the file declares")

    def encode(self, text: str) -> list[int]:
        check_text(text)
        return self._encoder.encode(text).ids

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
        return self._encoder.encode(rendered.replace(mark, ""), add_special_tokens=False).ids


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
