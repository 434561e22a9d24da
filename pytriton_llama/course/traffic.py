"""Bytes moved between memory and kernel, and the faults of moving them.

A kernel is watched in Triton's interpreter; where it is compiled for a GPU, in a process beside this one, on copies of
its arguments. What is counted is what the kernel asks for, before any cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pytriton_llama.course.check import Verdict, Verdicts, unpacked
from pytriton_llama.interpreter import trace
from pytriton_llama.interpreter.tracing import AssertionFailed, OutOfBounds, Overflow, Race, Uninitialized
from pytriton_llama.interpreter.watch import Violation

FAULTS: dict[type[Violation], str] = {
    OutOfBounds: "an access outside of a tensor",
    Race: "a race: the result depends on which program runs first",
    Overflow: "an offset that wrapped around 32 bits",
    AssertionFailed: "a failed assertion",
    Uninitialized: "a load of memory that nobody has written",
}


@dataclass
class Traffic:
    """Bytes loaded and stored; a counter for tiles of torch tensors, and what kernels are compared with.

    t = Traffic()
    tile = t.load(x[:256])       # counts the tile's bytes, and returns it
    y[:256] = t.store(2 * tile)  # as well
    assert t == Traffic(loaded=1024, stored=1024)
    """

    loaded: int = 0
    stored: int = 0

    def load(self, tile: torch.Tensor) -> torch.Tensor:
        self.loaded += tile.numel() * tile.element_size()
        return tile

    def store(self, tile: torch.Tensor) -> torch.Tensor:
        self.stored += tile.numel() * tile.element_size()
        return tile

    @property
    def total(self) -> int:
        return self.loaded + self.stored

    def __str__(self) -> str:
        return f"{self.loaded:,} bytes loaded, {self.stored:,} bytes stored"


def traffic(function: Callable, *args: Any) -> Traffic:
    """What the kernels that ``function(*args)`` launches load and store; torch's own operations do not count.

    Raises one of FAULTS if a kernel does what it must not.
    """
    unpacked(args)
    with trace() as t:
        function(*args)
    return Traffic(t.bytes_loaded, t.bytes_stored)


def watch(function: Callable, *args: Any) -> Verdicts:
    """Run ``function(*args)`` with its kernels watched; print ``caught: …``, or that they are clean.

    A tensor's memory is what its shape and strides reach: a view into a larger allocation ends where the view ends.
    Nothing outside is touched, for the first fault ends the kernel.
    """
    unpacked(args)
    try:
        with trace(extent="view"):
            function(*args)
    except Violation as fault:
        return Verdicts(Verdict("", False, FAULTS[type(fault)], str(fault)))
    return Verdicts(Verdict("", True, "clean: no access outside of a tensor, no race"))
