"""What stands in a checkpoint's JSON files, checked: a value, or a ``LlamaError`` that names its key."""

import json
import sys
from pathlib import Path
from typing import Any

from pytriton_llama.errors import LlamaError

_REQUIRED = object()
_MAX_JSON_BYTES = 1 << 26  # the largest published tokenizer.json has a quarter of this


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises :class:`LlamaError` where there is none, or where a key stands twice."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise LlamaError(f"{path}: cannot be read: not a file")
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise LlamaError(f"{path}: cannot be read: larger than {_MAX_JSON_BYTES >> 20} MiB")
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise LlamaError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LlamaError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise LlamaError(f"{path}: a JSON object is needed, found a {type(values).__name__}")
    return values


def size(values: dict[str, Any], key: str, default: Any = _REQUIRED, where: str = "", most: int = 2**31 - 1) -> int:
    """A positive integer up to ``most``; null stands for the default, as in Hugging Face's own files."""
    value = default if values.get(key) is None else values[key]
    if type(value) is not int or value < 1:
        raise LlamaError(f"config: {_path(where, key)} must be a positive integer, got {shown(value)}")
    if value > most:
        raise LlamaError(f"config: {_path(where, key)} must be at most {most}, got {shown(value)}")
    return value


def positive(values: dict[str, Any], key: str, default: Any = _REQUIRED, where: str = "") -> float:
    """A positive number that a float64 holds."""
    value = values.get(key, default)
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise LlamaError(f"config: {_path(where, key)} must be a positive number, got {shown(value)}")
    return float(value)


def flag(values: dict[str, Any], key: str, default: bool = False, where: str = "") -> bool:
    value = values.get(key, default)
    if type(value) is not bool:
        raise LlamaError(f"config: {_path(where, key)} must be true or false, got {shown(value)}")
    return value


def token_ids(value: Any, key: str, vocab_size: int) -> tuple[int, ...]:
    """One id, a list of them or null, as a tuple."""
    ids = () if value is None else tuple(value) if isinstance(value, list) else (value,)
    if any(type(i) is not int or i < 0 for i in ids):
        raise LlamaError(f"config: {key} must be a token id or a list of them, got {shown(value)}")
    if ids and max(ids) >= vocab_size:
        raise LlamaError(f"config: {key} is {shown(max(ids))}, outside the vocabulary of {vocab_size}")
    return ids


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shown(next(key for key in keys if keys.count(key) > 1))} stands twice")
    return values


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def shown(value: Any) -> str:
    """A value in an error message: cut, for it comes from outside and may be long."""
    if value is _REQUIRED:
        return "nothing"
    if type(value) is int and value.bit_length() > 1000:  # Python refuses to print it
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
