"""Layer norm beside torch's own, torch.compile's and Liger-Kernel's."""

import torch
from torch.nn import functional as F

from pytriton_llama import reference
from pytriton_llama.bench import rows
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, Run, compiled, liger

EPS = 1e-5


def inputs(point: Point, draw: Draw) -> Inputs:
    return draw(*point.shape), draw(point.shape[-1]), draw(point.shape[-1])


def eager(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, EPS)


def liger_layer_norm() -> Run:
    forward = liger("layer_norm", "LigerLayerNormFunction")
    return lambda x, weight, bias: forward(x, weight, bias, EPS)


def moved(point: Point) -> int:
    """x, weight and bias in, y out."""
    M, N = point.shape
    return (2 * M * N + 2 * N) * point.itemsize


def flops(point: Point) -> int:
    """A row: the mean in N, its subtraction in N, the variance in 2N, eps, the root, then scale, weight and bias."""
    M, N = point.shape
    return M * (7 * N + 2)


CASES = (
    Case(
        op="layer_norm",
        kernel="layer_norm",
        result="layer-norm-forward",
        points=rows.POINTS,
        quick=rows.QUICK,
        inputs=inputs,
        oracle=reference.layer_norm,
        peers={"torch": lambda: eager, "torch.compile": compiled(eager), "Liger-Kernel": liger_layer_norm},
        bytes=moved,
        flops=flops,
        setting=rows.SETTING,
        plotted=rows.many,
    ),
)
