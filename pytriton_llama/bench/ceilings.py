"""What this GPU can do at all: the fastest read, and cuBLAS. (A copy stands beside every memory-bound operation.)

A matrix times a vector reads the matrix once and writes next to nothing: the shape of a decode step.
"""

import torch

from pytriton_llama.bench.case import Case, Draw, Inputs, Point, compiled


def vector_inputs(point: Point, draw: Draw) -> Inputs:
    M, K = point.shape
    return draw(M, K), draw(K)


def vector_moved(point: Point) -> int:
    """Matrix and vector in, M results out."""
    M, K = point.shape
    return (M * K + K + M) * point.itemsize


def vector_flops(point: Point) -> int:
    """A result: K products, K − 1 additions."""
    M, K = point.shape
    return M * (2 * K - 1)


def multiply_and_sum(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (matrix.float() * vector.float()).sum(-1).to(matrix.dtype)


def square_inputs(point: Point, draw: Draw) -> Inputs:
    M, N, K = point.shape
    return draw(M, K), draw(K, N)


def matmul_moved(point: Point) -> int:
    """Both factors in, the product out."""
    M, N, K = point.shape
    return (M * K + K * N + M * N) * point.itemsize


def matmul_flops(point: Point) -> int:
    """2·M·N·K, as everyone counts it: a fused multiply-add is two."""
    M, N, K = point.shape
    return 2 * M * N * K


_MATRICES = tuple(Point((M, 8192), dtype) for dtype in ("fp16", "bf16") for M in (8192, 32768, 131072))
_SQUARES = tuple(Point((n, n, n), dtype) for dtype in ("fp16", "bf16") for n in (2048, 4096, 8192))

CASES = (
    Case(
        op="ceiling_read",
        kernel=None,
        result="ceiling-read",
        points=_MATRICES,
        quick=_MATRICES[1:2],
        inputs=vector_inputs,
        oracle=torch.mv,
        peers={"cuBLAS": lambda: torch.mv, "torch.compile": compiled(multiply_and_sum)},
        bytes=vector_moved,
        flops=vector_flops,
        axis="M",
        swept=0,
        setting="M rows of 8192 columns times a vector",
    ),
    Case(
        op="ceiling_matmul",
        kernel=None,
        result="ceiling-matmul",
        points=_SQUARES,
        quick=_SQUARES[1:2],
        inputs=square_inputs,
        oracle=torch.matmul,
        peers={"cuBLAS": lambda: torch.matmul},
        bytes=matmul_moved,
        flops=matmul_flops,
        unit="TFLOP/s",
        axis="M = N = K",
        setting="square matrices",
        swept=0,
    ),
)
