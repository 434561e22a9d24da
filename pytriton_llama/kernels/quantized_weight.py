"""A weight in 8 or 4 bits, and how its bits lie.

    weight[n, k] = scales[n, g] · (q[n, k] − 2^(bits − 1))      or      scales[n, g] · q[n, k] + minima[n, g]

with g = k // group_size and q in 0 … 2^bits − 1. A row is a sequence of *chunks* of 16 bytes, what a thread loads at a
time: four 32-bit words. Field j of word i, its bits from j · bits on, is the chunk's weight 4j + i. So the same field
of the four words is four weights side by side, which meet four numbers of x side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

BITS = (4, 8)


@dataclass(frozen=True)
class QuantizedWeight:
    """A (N, K) weight; see the module.

    Attributes:
        packed: int32 (N, K · bits / 32).
        scales: float16 (N, K / group_size).
        minima: as scales, or None.
        bits: 4 or 8.
        group_size: how many weights of a row share a scale: a multiple of a chunk's 128 / bits that divides K.

    Raises:
        ValueError: other bits; ``packed`` is no matrix. The rest is for the kernels' wrappers to check.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    minima: torch.Tensor | None
    bits: int
    group_size: int

    def __post_init__(self) -> None:
        _fields(self.bits)
        if self.packed.dim() != 2:
            raise ValueError(f"packed is {tuple(self.packed.shape)}; needed: (N, K · bits / 32)")

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.packed.shape[0], self.packed.shape[1] * 32 // self.bits))

    @property
    def device(self) -> torch.device:
        return self.packed.device

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors if t is not None)

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        return self.packed, self.scales, self.minima

    @property
    def form(self) -> tuple[int, int, bool]:
        """What weights must have in common to be joined or gated."""
        return self.bits, self.group_size, self.minima is not None

    def __getitem__(self, rows: slice | torch.Tensor) -> QuantizedWeight:
        packed, scales, minima = (None if t is None else t[rows] for t in self.tensors)
        assert packed is not None and scales is not None
        return QuantizedWeight(packed, scales, minima, self.bits, self.group_size)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The (N, K) weight, computed in float32 or ``dtype``, whichever is wider."""
        wide = torch.promote_types(dtype, torch.float32)
        q = unpack(self.packed, self.bits).to(wide).unflatten(1, (-1, self.group_size))
        scales = self.scales.to(wide)[..., None]
        if self.minima is None:
            values = (q - 2 ** (self.bits - 1)) * scales
        else:
            values = q * scales + self.minima.to(wide)[..., None]
        return values.flatten(1).to(dtype)


def join(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """The rows of several weights of one form below each other."""
    first = weights[0]
    packed, scales, minima = (
        None if parts[0] is None else torch.cat(parts) for parts in zip(*(w.tensors for w in weights), strict=True)
    )
    assert packed is not None and scales is not None
    return QuantizedWeight(packed, scales, minima, first.bits, first.group_size)


def pack(q: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 (N, K · bits / 32) of numbers (N, K) in 0 … 2^bits − 1; K must fill whole chunks.

    Raises:
        ValueError: it does not, or ``bits`` is neither 4 nor 8.
    """
    fields = _fields(bits)
    if q.dim() != 2 or q.shape[1] % (4 * fields):
        raise ValueError(f"pack: numbers are {tuple(q.shape)}; needed: rows of a multiple of {4 * fields}")
    shifts = bits * torch.arange(fields, dtype=torch.int64, device=q.device)
    words = (q.unflatten(1, (-1, fields, 4)).to(torch.int64) << shifts[:, None]).sum(2)
    # The highest field may set the sign: the same 32 bits as a signed number.
    return torch.where(words < 2**31, words, words - 2**32).to(torch.int32).flatten(1)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 (N, K): the inverse of :func:`pack`."""
    fields = _fields(bits)
    shifts = bits * torch.arange(fields, dtype=torch.int32, device=packed.device)
    words = packed.unflatten(1, (-1, 1, 4))
    return ((words >> shifts[:, None]) & (2**bits - 1)).to(torch.uint8).flatten(1)


def _fields(bits: int) -> int:
    """How many numbers a word has."""
    if bits not in BITS:
        raise ValueError(f"bits are {bits}; known: {', '.join(map(str, BITS))}")
    return 32 // bits
