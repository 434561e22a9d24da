"""Whether a contender computes what it should, before anyone asks how fast."""

import contextlib
from typing import Any

import torch

# Of an element and of its row's largest: as in tests/tolerances.py (a test holds the two together).
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@contextlib.contextmanager
def poisoned():
    """``torch.empty`` gives NaN: an element that nobody writes is seen."""
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was)


def wrong(actual: Any, oracle: Any) -> str | None:
    """What is wrong with a result (a tensor or a tuple of them), in a few words; None: nothing."""
    got, expected = (each if isinstance(each, tuple) else (each,) for each in (actual, oracle))
    if len(got) != len(expected):
        return f"{len(got)} results, not {len(expected)}"
    return next((words for pair in zip(got, expected, strict=True) if (words := _off(*pair))), None)


def _off(actual: torch.Tensor, oracle: torch.Tensor) -> str | None:
    if actual.shape != oracle.shape:
        return f"shape {tuple(actual.shape)}, not {tuple(oracle.shape)}"
    if not actual.is_floating_point():
        return None if torch.equal(actual, oracle) else "other bytes"
    size = oracle.abs()
    bound = (size + size.amax(-1, keepdim=True)) * TOLERANCE[actual.dtype]
    # Written so that a NaN counts as off.
    off = ~((actual.double() - oracle).abs() <= bound)
    return f"{int(off.sum())} of {off.numel()} elements off" if off.any() else None
