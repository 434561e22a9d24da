"""Tensors of more than 2³¹ elements, and what of their results is looked at."""

import math

import pytest
import torch

from pytriton_llama import kernels, reference
from tests.tolerances import assert_close

BEYOND = 1 << 31
# Random numbers come again after so many: a prime, of which neither 2³¹ nor a row is a multiple, so that an offset that
# wraps around finds other ones.
PERIOD = (1 << 24) - 3


def repeated(block: torch.Tensor, *shape: int) -> torch.Tensor:
    t = torch.empty(math.prod(shape), dtype=block.dtype, device=block.device)
    for start in range(0, t.numel(), len(block)):
        t[start : start + len(block)] = block[: t.numel() - start]
    return t.view(shape)


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers, drawn on the GPU."""
    count = min(PERIOD, math.prod(shape))
    return repeated((torch.randn(count, device="cuda") * scale).to(dtype), *shape)


def some(count: int, row: int = 1) -> list[int]:
    """A few of the first rows, of those about which 2³¹ elements are passed, of the middle and of the last ones."""
    starts = (0, BEYOND // row - 8, count // 2, count - 16)
    return sorted({i for start in starts for i in range(max(start, 0), min(start + 16, count))})


def wide(t):
    return t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t


def check(actual, op: str, *inputs, **options) -> None:
    """A part of a result (or of each of several) against the oracle in float64 of the inputs that it is made of."""
    expected = getattr(reference, op)(*map(wide, inputs), **{name: wide(value) for name, value in options.items()})
    results = (actual, expected) if isinstance(actual, tuple) else ((actual,), (expected,))
    for ours, oracle in zip(*results, strict=True):
        assert_close(ours, oracle)


def rows(op: str, x: torch.Tensor, *others: torch.Tensor) -> None:
    """Run an operation on rows of x, of x's like and of weights (one dimension); look at some."""
    results = getattr(kernels, op)(x, *others)
    at = some(*x.shape)
    picked = [t[at] if t.dim() > 1 else t for t in (x, *others)]
    check(tuple(t[at] for t in results) if isinstance(results, tuple) else results[at], op, *picked)


def need_memory(gigabytes: float) -> None:
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"takes {gigabytes} GB of the GPU's memory, of which {free:.0f} are free")
