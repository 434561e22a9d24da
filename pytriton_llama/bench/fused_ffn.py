"""silu(gate) · up, the element-wise middle of Llama's feed-forward, beside torch, torch.compile and Liger-Kernel."""

import torch
from torch.nn import functional as F

from pytriton_llama.bench import rows
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, compiled, liger


def inputs(point: Point, draw: Draw) -> Inputs:
    return draw(*point.shape), draw(*point.shape)


def eager(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def moved(point: Point) -> int:
    """gate and up in, the product out."""
    M, N = point.shape
    return 3 * M * N * point.itemsize


def flops(point: Point) -> int:
    """gate / (1 + exp(−gate)) · up: a sign, an exponential, an addition, a division, a product."""
    M, N = point.shape
    return 5 * M * N


CASES = (
    Case(
        op="silu_mul",
        kernel="fused_ffn",
        result="silu-mul-forward",
        points=rows.POINTS,
        quick=rows.QUICK,
        inputs=inputs,
        oracle=eager,
        peers={
            "torch": lambda: eager,
            "torch.compile": compiled(eager),
            "Liger-Kernel": lambda: liger("swiglu", "LigerSiLUMulFunction"),
        },
        bytes=moved,
        flops=flops,
        setting=rows.SETTING,
        plotted=rows.many,
    ),
)
