"""Ours against the oracle, over named inputs: verdicts only.

A verdict is the same on every machine. Where and by how much a result is off is not, so it is kept apart:
``check(…).details()``.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pytriton_llama.bench.check import poisoned
from pytriton_llama.runtime import runs_bfloat16
from pytriton_llama.tolerances import TOLERANCE

Function = Callable[..., Any]
NOT_HERE = "not run here"


@dataclass(frozen=True)
class Verdict:
    """One line of a table: ``found`` is what was found, ``ok`` whether that is as it should be."""

    name: str
    ok: bool
    found: str
    detail: str = ""


class Verdicts:
    """A table of verdicts; true if all of them are good. It was printed when it was made, so a cell shows it once."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = verdicts
        print(self)

    def __bool__(self) -> bool:
        return all(v.ok for v in self.verdicts)

    def __str__(self) -> str:
        width = max(len(v.name) for v in self.verdicts)
        words = (v.found if v.ok else f"caught: {v.found}" for v in self.verdicts)
        return "\n".join(f"{v.name:{width}}  {w}".strip() for v, w in zip(self.verdicts, words, strict=True))

    def details(self) -> None:
        """Print what differs from machine to machine: where, and by how much. For a cell whose output is ignored."""
        for v in self.verdicts:
            print(": ".join(filter(None, (v.name, v.detail or v.found))))

    def _ipython_display_(self) -> None:
        pass


def check(ours: Function, oracle: Function, *inputs: Any) -> Verdicts:
    """Call both functions on the same inputs, compare, print a verdict for each input.

    Args:
        ours: gets the inputs as they are. What it allocates with ``torch.empty`` is NaN: an element that nobody writes
            is seen.
        oracle: gets them in float64.
        inputs: the arguments of one call; or one dict from an input's name to its argument, or to a tuple of them.

    Returns:
        The table; true if ours agrees everywhere: each element to within ``tolerances.TOLERANCE`` of itself and of its
        row's largest, NaN and infinities in the same places.
    """
    unpacked(inputs)
    named = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], dict) else {"": inputs}
    return Verdicts(
        *(
            _verdict(name, ours, oracle, given if isinstance(given, tuple) else (given,))
            for name, given in named.items()
        )
    )


def unpacked(inputs: tuple) -> None:
    """Raise if the arguments of a call came as one tuple."""
    if len(inputs) == 1 and isinstance(inputs[0], tuple) and any(isinstance(each, torch.Tensor) for each in inputs[0]):
        raise TypeError(f"{len(inputs[0])} arguments came as one tuple: put * before it")


@torch.no_grad()
def _verdict(name: str, ours: Function, oracle: Function, given: tuple) -> Verdict:
    tensors = [t for t in given if isinstance(t, torch.Tensor)]
    if any(t.dtype == torch.bfloat16 and not runs_bfloat16(t.device) for t in tensors):
        return Verdict(name, True, NOT_HERE)
    expected = oracle(*(_wide(t) for t in given))
    try:
        # The switch that fills torch.empty with NaN also warns of torch's own nondeterminism.
        with poisoned(), warnings.catch_warnings(action="ignore"):
            actual = ours(*given)
    except Exception as error:  # whatever a reader's function raises
        return Verdict(name, False, f"raises {type(error).__name__}", f"{type(error).__name__}: {error}")
    off = difference(actual, expected)
    return Verdict(name, False, *off) if off else Verdict(name, True, "agrees")


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def difference(actual: Any, expected: Any) -> tuple[str, str] | None:
    """What is wrong with a result (a tensor or a tuple of them), and the details; None if nothing is."""
    got, wanted = (each if isinstance(each, tuple) else (each,) for each in (actual, expected))
    if len(got) != len(wanted):
        return f"{len(got)} results, not {len(wanted)}", ""
    return next((off for pair in zip(got, wanted, strict=True) if (off := _off(*pair))), None)


def _off(actual: Any, expected: torch.Tensor) -> tuple[str, str] | None:
    if not isinstance(actual, torch.Tensor):
        return f"a result of type {type(actual).__name__}, not a tensor", ""
    if actual.shape != expected.shape:
        return f"a result of shape {tuple(actual.shape)}, not {tuple(expected.shape)}", ""
    if not actual.is_floating_point():
        return None if torch.equal(actual.cpu(), expected.cpu().to(actual.dtype)) else ("other integers", "")
    got, wanted = actual.double().cpu(), expected.double().cpu()
    finite = wanted.isfinite()
    size = torch.where(finite, wanted, 0.0).abs()
    bound = TOLERANCE[actual.dtype] * (size + (size.amax(-1, keepdim=True) if size.numel() else size))
    faults = {
        "NaN where the oracle has none": got.isnan() & ~wanted.isnan(),
        "no NaN where the oracle has one": wanted.isnan() & ~got.isnan(),
        "infinite where the oracle is not": got.isinf() & finite,
        "wrong numbers": torch.where(finite, (got - wanted).abs() > bound, (got != wanted) & ~wanted.isnan()),
    }
    for words, where in faults.items():
        if where.any():
            i = tuple(torch.nonzero(where)[0].tolist())
            share = f"{int(where.sum())} of {where.numel()} elements"
            return words, f"{words}: {share}, the first at {i}: {got[i]:.6g}, oracle {wanted[i]:.6g}"
    return None
