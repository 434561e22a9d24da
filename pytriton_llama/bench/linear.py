"""A product with a weight beside cuBLAS: the founding document's squares, and the tables of Llama-3.2-1B and 3.1-8B.

A point's shape is (M, N, K): M tokens, a weight of N × K.
"""

from torch.nn import functional as F

from pytriton_llama import reference
from pytriton_llama.bench.case import Case, Draw, Inputs, Point
from pytriton_llama.bench.ceilings import matmul_flops, matmul_moved

SQUARES = (*range(256, 4097, 128), 6144, 8192)
# (N, K) of what a layer multiplies by: q, k and v in one; the output projection; gate and up in one; down; then logits.
LLAMA = {
    "llama-3.2-1b": ((3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192), (128256, 2048)),
    "llama-3.1-8b": ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)),
}
TOKENS = (16, 64, 128, 512, 2048, 8192)


def inputs(point: Point, draw: Draw) -> Inputs:
    M, N, K = point.shape
    return draw(M, K), draw(N, K)


def square(point: Point) -> bool:
    """Whether the point belongs into the plot, whose axis is the side of a square."""
    return len(set(point.shape)) == 1


def _points(dtype: str) -> list[Point]:
    squares = [(n, n, n) for n in SQUARES]
    # Logits are wanted for the last token of each sequence: thousands of rows of them nobody computes.
    tables = [(M, N, K) for M in TOKENS for shapes in LLAMA.values() for N, K in shapes if N < 128256 or M <= 512]
    return [Point(shape, dtype) for shape in dict.fromkeys(squares + tables)]  # one of the tables is a square


CASES = (
    Case(
        op="linear",
        kernel="linear",
        result="matmul-performance-fp16",
        points=(*_points("fp16"), *_points("bf16")),
        quick=tuple(Point((n, n, n), "fp16") for n in (1024, 4096, 8192)),
        inputs=inputs,
        oracle=reference.linear,
        peers={"cuBLAS": lambda: F.linear},
        bytes=matmul_moved,
        flops=matmul_flops,
        unit="TFLOP/s",
        axis="M = N = K",
        swept=0,
        setting="square matrices",
        plotted=square,
    ),
)
