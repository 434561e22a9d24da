"""How a checkpoint's weights are quantised, as ``quantization_config`` of its ``config.json`` says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.values import flag, shown, size

KEY, METHOD = "quantization_config", "pytriton_llama"
_GROUP_SIZES = (128, 64, 32)


@dataclass(frozen=True)
class Scheme:
    """Of the linear layers; the embedding and lm_head have 8 bits, and one scale a row.

    Attributes:
        bits: 4 or 8.
        group_size: how many weights of a row share a scale; None: all of them.
        minima: whether a group has a minimum beside its scale.
    """

    bits: int
    group_size: int | None
    minima: bool

    @classmethod
    def from_dict(cls, values: Any, columns: Collection[int]) -> Scheme | None:
        """From ``quantization_config``, which may be null; ``columns``: how long the rows of weights are.

        Raises :class:`LlamaError` for other methods, by name, and for groups that rows don't consist of.
        """
        if values is None:
            return None
        if not isinstance(values, dict):
            raise LlamaError(f"config: {KEY} must be an object or null, got {shown(values)}")
        if values.get("quant_method") != METHOD:
            method = shown(values.get("quant_method"))
            raise LlamaError(f"config: {KEY}.quant_method = {method} is not supported (only {METHOD!r})")
        group_size = None if values.get("group_size") is None else size(values, "group_size", where=KEY)
        bits, minima = size(values, "bits", where=KEY), flag(values, "minima", where=KEY)
        try:
            return cls.checked(bits, group_size, minima, columns)
        except LlamaError as error:
            raise LlamaError(f"config: {KEY}: {error}") from None

    @classmethod
    def checked(cls, bits: int, group_size: int | None, minima: bool, columns: Collection[int]) -> Scheme:
        """Raises :class:`LlamaError` for bits other than 4 and 8, and for groups that rows don't consist of."""
        if bits not in (4, 8):
            raise LlamaError(f"bits must be 4 or 8, got {bits}")
        if not all(_divides(k if group_size is None else group_size, k, bits) for k in columns):
            rows, given = " and ".join(map(str, sorted(set(columns)))), "a row" if group_size is None else group_size
            works = ", ".join(map(str, group_sizes(bits, columns))) or "none"
            raise LlamaError(f"group_size is {given}, rows have {rows} weights: what works in {bits} bits is {works}")
        return cls(bits, group_size, minima)

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": METHOD} | vars(self)

    def of(self, weight: str) -> Scheme:
        """That of a weight of this name."""
        return _OUTER if weight in ("model.embed_tokens.weight", "lm_head.weight") else self

    def __str__(self) -> str:
        groups = f"groups of {self.group_size}" if self.group_size else "rows"
        return f"{self.bits} bits in {groups}{' with minima' if self.minima else ''}"


_OUTER = Scheme(8, None, False)


def group_sizes(bits: int, columns: Collection[int]) -> list[int]:
    """The usual ones that rows consist of, the largest first."""
    return [group for group in _GROUP_SIZES if all(_divides(group, k, bits) for k in columns)]


def _divides(group_size: int, row: int, bits: int) -> bool:
    # What a thread loads at a time, 16 bytes, is of one group.
    return group_size > 0 and row % group_size == 0 and group_size % (128 // bits) == 0
