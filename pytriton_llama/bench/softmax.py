"""Softmax beside torch's own, torch.compile's and Liger-Kernel's."""

import torch

from pytriton_llama import reference
from pytriton_llama.bench import rows
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, compiled, liger


def inputs(point: Point, draw: Draw) -> Inputs:
    return (draw(*point.shape),)


def eager(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


def moved(point: Point) -> int:
    """x in, y out."""
    M, N = point.shape
    return 2 * M * N * point.itemsize


def flops(point: Point) -> int:
    """A row: N − 1 comparisons, N subtractions, N exponentials, N − 1 additions, N divisions."""
    M, N = point.shape
    return M * (5 * N - 2)


CASES = (
    Case(
        op="softmax",
        kernel="softmax",
        result="softmax-performance",
        points=rows.POINTS,
        quick=rows.QUICK,
        inputs=inputs,
        oracle=reference.softmax,
        peers={
            "torch": lambda: eager,
            "torch.compile": compiled(eager),
            "Liger-Kernel": lambda: liger("softmax", "LigerSoftmaxFunction"),
        },
        bytes=moved,
        flops=flops,
        setting=rows.SETTING,
        plotted=rows.many,
    ),
)
