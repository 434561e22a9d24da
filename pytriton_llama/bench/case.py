"""What a benchmark of one operation consists of."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pytriton_llama.bench import settings

Inputs = tuple[torch.Tensor, ...]
Run = Callable[..., Any]  # takes a case's inputs, returns a tensor or a tuple of them
Draw = Callable[..., torch.Tensor]  # draw(*shape, dtype=…): normal numbers on the device; dtype: the point's own

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Point:
    """One problem size: ``shape`` as the case reads it, ``dtype`` one of DTYPES' names."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return "×".join(map(str, self.shape)) + f" {self.dtype}"


@dataclass(frozen=True)
class Case:
    """One operation: its inputs, its oracle, and who competes.

    ``peers`` maps a name to a function that makes the contender; whatever the peer needs is imported there, so that
    one that is not installed is skipped alone. ``bytes`` counts each input read once and each output written once,
    ``flops`` every addition, multiplication, division, comparison, exponential and root as one.
    """

    op: str  # the function in pytriton_llama.kernels
    kernel: str | None  # the file in kernels/ that has it; None: a ceiling, which nobody of ours competes for
    result: str  # name of the CSV and PNG
    points: tuple[Point, ...]
    quick: tuple[Point, ...]
    inputs: Callable[[Point, Draw], Inputs]
    oracle: Run  # of the same inputs in float64
    peers: dict[str, Callable[[], Run]]
    bytes: Callable[[Point], int]
    flops: Callable[[Point], int]
    unit: str = "GB/s"  # or "TFLOP/s", where arithmetic is what limits
    axis: str = "N"
    swept: int = -1  # which dimension of a point's shape runs along that axis
    setting: str = ""  # what the other dimensions are, in words
    plotted: Callable[[Point], bool] = field(default=lambda point: True)
    name: str = ""  # what tells it from other cases of the operation; default: the operation's
    ours: Run | None = None  # how our function is called; default: with the inputs
    forms: dict[str, Callable[..., Inputs]] = field(default_factory=dict)  # the inputs as a peer wants them, not timed

    def __post_init__(self):
        object.__setattr__(self, "name", self.name or self.op)

    def contenders(self) -> dict[str, Callable[[], Run]]:
        """Ours first, then the peers, then the ceiling: a copy that moves the same bytes.

        It inverts the bits on the way: cudaMemcpy, which an exact copy would call, is up to a fifth slower than a
        kernel at some sizes (an H100: 2.43 TB/s against 3.02 for 0.5 GB to 0.5 GB).
        """
        ours = {} if self.kernel is None else {settings.OURS: self._ours}
        return ours | self.peers | ({settings.COPY: lambda: torch.bitwise_not} if self.unit == "GB/s" else {})

    def _ours(self) -> Run:
        return self.ours or getattr(importlib.import_module(f"pytriton_llama.kernels.{self.kernel}"), self.op)

    def rate(self, point: Point, seconds: float) -> float:
        """GB/s or TFLOP/s, in powers of ten."""
        return self.bytes(point) / seconds / 1e9 if self.unit == "GB/s" else self.flops(point) / seconds / 1e12


def compiled(function: Run) -> Callable[[], Run]:
    """``torch.compile`` of a function, afresh for each point: past eight shapes it would fall back to eager."""

    def build() -> Run:
        torch.compiler.reset()
        return torch.compile(function, dynamic=False)

    return build


def liger(module: str, function: str) -> Run:
    """Liger-Kernel's autograd function, if it is installed."""
    return getattr(importlib.import_module(f"liger_kernel.ops.{module}"), function).apply
