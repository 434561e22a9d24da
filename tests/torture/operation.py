"""What an operation of the table is, and its arguments: drawn, cast, taken apart and put together again."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from pytriton_llama.kernels import QuantizedWeight

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One line of the table.

    Attributes:
        function: its name in ``kernels`` and in ``reference``.
        draw: all arguments for one length, in their order; tensors are float64, or of a dtype that they keep.
        size: of the arguments in float64: how large the numbers are that each result is a float32 sum of, and how large
            those that are rounded to the dtype on the way; a pair for each result. None: results are exact.
        terms: how many numbers are added up, by length.
        least: the shortest length that is not refused.
        unit: operands whose last stride must be 1; ``contiguous``: those that must be contiguous.
        written: operands that are results as well.
        apart: weights are summed up in two terms: an inf that meets them may give NaN for torch's inf, as documented.
        first: the operands that have a batch, and how many of their rows are the first sequence's.
    """

    function: str
    draw: Callable[[Callable[..., torch.Tensor], int], Arguments]
    size: Callable[..., list] | None
    terms: Callable[[int], int] = lambda n: max(n, 1)
    least: int = 0
    unit: tuple[str, ...] = ()
    contiguous: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    apart: bool = False
    first: dict[str, int] = field(default_factory=dict)

    def accepts(self, name: str, t: torch.Tensor) -> bool:
        """Whether a tensor may lie like this; the parts of a packed weight must be contiguous."""
        if name in self.contiguous or "." in name:
            return t.is_contiguous()
        if name in self.written and any(n > 1 and step == 0 for n, step in zip(t.shape, t.stride(), strict=True)):
            return False  # one number in many places is no output
        return name not in self.unit or t.stride(-1) == 1

    def run(self, module: ModuleType, arguments: Arguments, in_place: bool = False) -> list[torch.Tensor]:
        """Every result, the operands that it writes among them: ``arguments``' own if ``in_place``, or copies."""
        if not in_place:
            arguments = arguments | {name: arguments[name].clone() for name in self.written}
        returned = getattr(module, self.function)(*arguments.values())
        results = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
        return [*results, *(arguments[name] for name in self.written)]


def draw(operation: Operation, length: int) -> Arguments:
    generator = torch.Generator().manual_seed(1337 + length)
    return operation.draw(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64), length)


def tensors(arguments: Arguments) -> dict[str, torch.Tensor]:
    """All of them by name; a packed weight's are called ``weight.packed`` and so on."""
    found = {}
    for name, a in arguments.items():
        if isinstance(a, torch.Tensor):
            found[name] = a
        elif isinstance(a, QuantizedWeight):
            parts = {f"{name}.{part}": getattr(a, part) for part in ("packed", "scales", "minima")}
            found |= {part: t for part, t in parts.items() if t is not None}
    return found


def put(arguments: Arguments, name: str, t: torch.Tensor) -> Arguments:
    """The arguments with another tensor of that name."""
    whole, _, part = name.partition(".")
    return arguments | {whole: dataclasses.replace(arguments[whole], **{part: t}) if part else t}


def operands(operation: Operation, length: int) -> list[str]:
    """The floating-point numbers that are read."""
    found = tensors(draw(operation, length))
    return [name for name, t in found.items() if t.is_floating_point() and name not in operation.written]


def cast(arguments: Arguments, dtype: torch.dtype, device: str) -> Arguments:
    """float64 operands in ``dtype``; all where kernels run."""
    arguments = {name: dtype if isinstance(a, torch.dtype) else a for name, a in arguments.items()}
    for name, t in tensors(arguments).items():
        arguments = put(arguments, name, t.to(device, dtype if t.dtype == torch.float64 else t.dtype))
    return arguments


def in_dtype(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """The same numbers, in at least ``dtype``; a packed weight stays."""
    floating = {n: a for n, a in arguments.items() if isinstance(a, torch.Tensor) and a.is_floating_point()}
    return arguments | {name: a.to(torch.promote_types(a.dtype, dtype)) for name, a in floating.items()}
