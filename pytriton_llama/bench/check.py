"""Whether a contender computes what it should, before anyone asks how fast."""

import contextlib
from typing import Any

import torch

from pytriton_llama.tolerances import TOLERANCE


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
