"""The linear layers of a decode step: one row of x, or a few, times a weight that has to be read.

A point's shape is (M, N, K).
"""

import torch
from torch.nn import functional as F

from pytriton_llama import reference
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, Run, compiled
from pytriton_llama.kernels import decode_linear, linear, rms_norm, swiglu

ROWS = (1, 2, 4, 8, 16)
COLUMNS = (1024, 2048, 4096, 8192, 14336, 32768, 128256)
EPS = 1e-6


def norm_inputs(point: Point, draw: Draw) -> Inputs:
    M, N, K = point.shape
    return draw(M, K), draw(N, K), draw(K)


def norm_moved(point: Point) -> int:
    """x and both weights in, y out."""
    M, N, K = point.shape
    return (M * K + N * K + K + M * N) * point.itemsize


def norm_flops(point: Point) -> int:
    """2·M·N·K of the product; the norm's are few beside them."""
    M, N, K = point.shape
    return 2 * M * N * K


def swiglu_inputs(point: Point, draw: Draw) -> Inputs:
    M, N, K = point.shape
    return draw(M, K), draw(N, K), draw(N, K), draw(K)


def swiglu_moved(point: Point) -> int:
    M, N, K = point.shape
    return (M * K + 2 * N * K + K + M * N) * point.itemsize


def normed(x: torch.Tensor, weight: torch.Tensor, norm_weight: torch.Tensor) -> torch.Tensor:
    return F.linear(F.rms_norm(x, x.shape[-1:], norm_weight, EPS), weight)


def gated(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, norm_weight: torch.Tensor) -> torch.Tensor:
    n = F.rms_norm(x, x.shape[-1:], norm_weight, EPS)
    return F.silu(F.linear(n, gate)) * F.linear(n, up)


def _case(name: str, points: tuple[Point, ...], torchs: Run, ours: Run, apart: Run, oracle: Run, **rest) -> Case:
    return Case(
        op="decode_linear",
        name=name,
        kernel="decode_linear",
        result=name.replace("_", "-"),
        points=points,
        quick=points[::2],
        oracle=oracle,
        ours=ours,
        peers={
            "cuBLAS + torch": lambda: torchs,
            "cuBLAS + torch.compile": compiled(torchs),
            "our kernels apart": lambda: apart,
        },
        **rest,
    )


CASES = (
    _case(
        "decode_linear",
        tuple(Point((1, N, 4096), "bf16") for N in COLUMNS),
        normed,
        lambda x, weight, norm_weight: decode_linear(x, weight, norm_weight=norm_weight, eps=EPS),
        lambda x, weight, norm_weight: linear(rms_norm(x, norm_weight, EPS), weight),
        lambda x, weight, norm_weight: reference.decode_linear(x, weight, norm_weight=norm_weight, eps=EPS),
        inputs=norm_inputs,
        bytes=norm_moved,
        flops=norm_flops,
        axis="N",
        swept=1,
        setting="one row, K = 4096, with its norm",
    ),
    _case(
        "decode_linear_rows",
        tuple(Point((M, 14336, 4096), "bf16") for M in ROWS),
        gated,
        lambda x, gate, up, norm: decode_linear(x, gate, norm_weight=norm, eps=EPS, up_weight=up),
        lambda x, gate, up, norm: swiglu(rms_norm(x, norm, EPS), gate, up),
        lambda x, gate, up, norm: reference.decode_linear(x, gate, norm_weight=norm, eps=EPS, up_weight=up),
        inputs=swiglu_inputs,
        bytes=swiglu_moved,
        flops=lambda point: 2 * norm_flops(point),
        axis="M",
        swept=0,
        setting="SwiGLU with its norm, N = 14336, K = 4096",
    ),
)
