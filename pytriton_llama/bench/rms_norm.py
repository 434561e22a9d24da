"""RMS norm, alone and after a residual addition, beside torch's, torch.compile's and Liger-Kernel's."""

import torch
from torch.nn import functional as F

from pytriton_llama import reference
from pytriton_llama.bench import rows
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, Run, compiled, liger

EPS = 1e-6


def inputs(point: Point, draw: Draw) -> Inputs:
    return draw(*point.shape), draw(point.shape[-1])


def eager(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


def liger_rms_norm() -> Run:
    forward = liger("rms_norm", "LigerRMSNormFunction")
    return lambda x, weight: forward(x, weight, EPS)


def moved(point: Point) -> int:
    """x and the weight in, y out."""
    M, N = point.shape
    return (2 * M * N + N) * point.itemsize


def flops(point: Point) -> int:
    """A row: N squares, N − 1 additions, the mean, eps, the root, N times by it, N times by the weight."""
    M, N = point.shape
    return M * (4 * N + 2)


def add_inputs(point: Point, draw: Draw) -> Inputs:
    return draw(*point.shape), draw(*point.shape), draw(point.shape[-1])


def add_eager(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return eager(total, weight), total


def liger_add_rms_norm() -> Run:
    forward = liger("fused_add_rms_norm", "LigerFusedAddRMSNormFunction")
    return lambda x, residual, weight: forward(x, residual, weight, EPS)


def add_moved(point: Point) -> int:
    """x, the residual and the weight in, y and the sum out."""
    M, N = point.shape
    return (4 * M * N + N) * point.itemsize


def add_flops(point: Point) -> int:
    """N additions more a row."""
    M, N = point.shape
    return flops(point) + M * N


CASES = (
    Case(
        op="rms_norm",
        kernel="rms_norm",
        result="rms-norm-forward",
        points=rows.POINTS,
        quick=rows.QUICK,
        inputs=inputs,
        oracle=reference.rms_norm,
        peers={"torch": lambda: eager, "torch.compile": compiled(eager), "Liger-Kernel": liger_rms_norm},
        bytes=moved,
        flops=flops,
        setting=rows.SETTING,
        plotted=rows.many,
    ),
    Case(
        op="add_rms_norm",
        kernel="rms_norm",
        result="add-rms-norm-forward",
        points=rows.POINTS,
        quick=rows.QUICK,
        inputs=add_inputs,
        oracle=reference.add_rms_norm,
        peers={"torch": lambda: add_eager, "torch.compile": compiled(add_eager), "Liger-Kernel": liger_add_rms_norm},
        bytes=add_moved,
        flops=add_flops,
        setting=rows.SETTING,
        plotted=rows.many,
    ),
)
