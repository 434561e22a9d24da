"""The first half of Llama's feed-forward: silu(gate) · up alone, and in one kernel with the two products before it.

``silu_mul`` stands beside torch, torch.compile and Liger-Kernel; ``swiglu`` beside two products of cuBLAS's with
torch's or torch.compile's silu · mul behind them.
"""

import torch
from torch.nn import functional as F

from pytriton_llama import reference
from pytriton_llama.bench import rows
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, Run, compiled, liger


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


def swiglu_inputs(point: Point, draw: Draw) -> Inputs:
    """Weights as a model has them: their products are of x's size, and fit into 16 bits."""
    M, N, K = point.shape
    return draw(M, K), draw(N, K) * K**-0.5, draw(N, K) * K**-0.5


def products_then(silu_mul: Run) -> Run:
    return lambda x, gate_weight, up_weight: silu_mul(F.linear(x, gate_weight), F.linear(x, up_weight))


def swiglu_moved(point: Point) -> int:
    """x and both weights in, the result out."""
    M, N, K = point.shape
    return (M * K + 2 * N * K + M * N) * point.itemsize


def swiglu_flops(point: Point) -> int:
    """The two products, 2·M·N·K each, as everyone counts them; silu and its product are left out."""
    M, N, K = point.shape
    return 4 * M * N * K


def of_1b(point: Point) -> bool:
    """The shape whose numbers of tokens make one line of the plot."""
    return point.shape[1:] == (8192, 2048)


# (N, K) of Llama-3.2-1B's and 3.1-8B's feed-forward, by tokens: a decode step's, and prompts.
_SWIGLU = tuple(
    Point((M, N, K), dtype)
    for dtype in ("fp16", "bf16")
    for N, K in ((8192, 2048), (14336, 4096))
    for M in (16, 64, 512, 2048, 4096, 8192)
)

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
    Case(
        op="swiglu",
        kernel="fused_ffn",
        result="swiglu-forward",
        points=_SWIGLU,
        quick=tuple(point for point in _SWIGLU if point.shape[0] == 4096 and point.dtype == "fp16"),
        inputs=swiglu_inputs,
        oracle=reference.swiglu,
        peers={
            "cuBLAS + torch": lambda: products_then(eager),
            "cuBLAS + torch.compile": lambda: products_then(compiled(eager)()),
        },
        bytes=swiglu_moved,
        flops=swiglu_flops,
        unit="TFLOP/s",
        axis="M",
        swept=0,
        setting="M tokens, two weights of 8192 × 2048",
        plotted=of_1b,
    ),
)
