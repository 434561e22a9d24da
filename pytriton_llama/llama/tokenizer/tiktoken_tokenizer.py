"""``tokenizer.model`` in Meta's form for Llama 3: a line for each token, its bytes in base64 and its rank.

Text becomes tokens by joining, again and again, the two neighbours whose joined bytes have the lowest rank. This is
byte-level BPE, so the file is turned into the ``tokenizers`` form. Control tokens are not in the file: they
follow its last rank, as published in Meta's llama-models (``llama3/tokenizer.py``).
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.tokenizer.byte_level import byte_characters, byte_level_bpe

_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]{1,7})")
_MAX_TOKEN = 1024  # bytes; Llama 3's longest token has 128
_NAMED = [
    "begin_of_text",
    "end_of_text",
    "reserved_special_token_0",
    "reserved_special_token_1",
    "finetune_right_pad_id",
    "step_id",
    "start_header_id",
    "end_header_id",
    "eom_id",
    "eot_id",
    "python_tag",
    "image",
]
_RESERVED = [f"reserved_special_token_{i}" for i in range(2, 2 + 256 - len(_NAMED))]
CONTROL_TOKENS = [f"<|{name}|>" for name in _NAMED + _RESERVED]


def matches(data: bytes) -> bool:
    """Whether a file's bytes begin in this form."""
    return _LINE.fullmatch(data[: 2 * _MAX_TOKEN].split(b"\n", 1)[0]) is not None


def spec(data: bytes, file: Path) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` that encodes the same. Raises :class:`LlamaError` for broken files."""
    tokens = [_token(line, rank, file) for rank, line in enumerate(data.splitlines())]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) < len(tokens) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise LlamaError(f"{file}: a token stands there twice, or a single byte has no token")
    characters = byte_characters()
    names = ["".join([characters[byte] for byte in token]) for token in tokens]
    merges = [(names[ranks[left]], names[ranks[right]]) for token in tokens for left, right in _halves(token, ranks)]
    added = [AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS]
    vocab = {name: rank for rank, name in enumerate(names)}
    return json.loads(byte_level_bpe(vocab, merges, "llama-bpe", added, before=CONTROL_TOKENS[:1]).to_str())


def _token(line: bytes, rank: int, file: Path) -> bytes:
    found = _LINE.fullmatch(line)
    if found is None or int(found[2]) != rank or len(found[1]) > _MAX_TOKEN:
        raise LlamaError(f"{file}: line {rank + 1} is not a token in base64 and its rank, {rank}")
    try:
        return base64.b64decode(found[1], validate=True)
    except ValueError as error:
        raise LlamaError(f"{file}: line {rank + 1}: {error}") from error


def _halves(token: bytes, ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every two tokens that joined are this one, in the order of their ranks."""
    halves = [(token[:end], token[end:]) for end in range(1, len(token))]
    return sorted(
        [(left, right) for left, right in halves if left in ranks and right in ranks],
        key=lambda half: (ranks[half[0]], ranks[half[1]]),
    )
