"""Linear layers whose weight is in 4 or 8 bits, beside the same weight in 16.

A point's shape is (M, N, K). Bytes are those of the packed weight, for every contender: what they have in common is the
work, and a peer that reads more of them shows a lower rate.
"""

import torch
from torch.nn import functional as F

from pytriton_llama import reference
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, Run, compiled
from pytriton_llama.kernels import QuantizedWeight, decode_linear, quantized_linear
from pytriton_llama.kernels.quantized_weight import unpack

COLUMNS = (1024, 2048, 4096, 8192, 14336, 32768, 128256)
ROWS = (1, 2, 4, 8, 16, 64, 2048)
GROUP = 128


def groups(bits: int, K: int) -> int:
    """How many scales a row has: of 128 weights each in 4 bits, one in 8."""
    return K // GROUP if bits == 4 else 1


def inputs(bits: int):
    def make(point: Point, draw: Draw) -> Inputs:
        M, N, K = point.shape
        words = draw(N, K * bits // 32, dtype=torch.float32).view(torch.int32)
        # Scrambled: the exponents of normal numbers are much alike.
        packed = (words * 1664525 + 1013904223).to(torch.int32)
        scales = draw(N, groups(bits, K), dtype=torch.float32).mul(2.0 ** (1 - bits) * K**-0.5).half()
        return draw(M, K), packed, scales

    return make


def weight(bits: int, packed: torch.Tensor, scales: torch.Tensor) -> QuantizedWeight:
    return QuantizedWeight(packed, scales, None, bits, packed.shape[1] * 32 // bits // scales.shape[1])


def moved(bits: int):
    """x, bits and scales in, y out."""

    def count(point: Point) -> int:
        M, N, K = point.shape
        return (M * K + M * N) * point.itemsize + N * K * bits // 8 + 2 * N * groups(bits, K)

    return count


def flops(point: Point) -> int:
    M, N, K = point.shape
    return 2 * M * N * K


def plain(bits: int):
    """x, and the weight in x's dtype."""

    def form(x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> Inputs:
        return x, weight(bits, packed, scales).dequantize(x.dtype)

    return form


def int4_of_torch(x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> Inputs:
    """As ``_weight_int4pack_mm`` wants it, which torchao and gpt-fast call: (q − 8) · scale + zero."""
    q = unpack(packed, 4)
    theirs = torch.ops.aten._convert_weight_to_int4pack(q[:, ::2] << 4 | q[:, 1::2], 8)
    return x, theirs, torch.stack((scales, torch.zeros_like(scales)), -1).transpose(0, 1).to(x.dtype).contiguous()


def int8_of_torch(x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> Inputs:
    """As gpt-fast has it: int8, and a scale for each column of the product."""
    return x, (unpack(packed, 8).to(torch.int16) - 128).to(torch.int8), scales[:, 0].to(x.dtype)


def int4_mm(x: torch.Tensor, theirs: torch.Tensor, scales_and_zeros: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten._weight_int4pack_mm(x, theirs, GROUP, scales_and_zeros)


def int8_mm(x: torch.Tensor, theirs: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return F.linear(x, theirs.to(x.dtype)) * scales


def _case(name: str, bits: int, points: tuple[Point, ...], **rest) -> Case:
    def ours(x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return quantized_linear(x, weight(bits, packed, scales))

    def oracle(x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return reference.quantized_linear(x, weight(bits, packed, scales))

    theirs: Run = int4_mm if bits == 4 else int8_mm
    method = "torch int4" if bits == 4 else "torch int8 + torch.compile"
    return Case(
        op="quantized_linear",
        name=name,
        kernel="quantized_linear",
        result=name.replace("_", "-"),
        points=points,
        quick=points[:5:2],  # up to N = 14336: beyond it the peers in 16 bits and the oracle fill a small card
        inputs=inputs(bits),
        oracle=oracle,
        ours=ours,
        peers={
            method: (lambda: theirs) if bits == 4 else compiled(theirs),
            "cuBLAS": lambda: F.linear,
            "our decode_linear": lambda: decode_linear,
        },
        forms={
            method: int4_of_torch if bits == 4 else int8_of_torch,
            "cuBLAS": plain(bits),
            "our decode_linear": plain(bits),
        },
        bytes=moved(bits),
        flops=flops,
        **rest,
    )


CASES = (
    _case(
        "quantized_linear",
        4,
        tuple(Point((1, N, 4096), "bf16") for N in COLUMNS),
        axis="N",
        swept=1,
        setting="one row, K = 4096, 4 bits in groups of 128",
    ),
    _case(
        "quantized_linear_int8",
        8,
        tuple(Point((1, N, 4096), "bf16") for N in COLUMNS),
        axis="N",
        swept=1,
        setting="one row, K = 4096, 8 bits, a scale a row",
    ),
    _case(
        "quantized_linear_rows",
        4,
        tuple(Point((M, 14336, 4096), "bf16") for M in ROWS),
        axis="M",
        swept=0,
        setting="N = 14336, K = 4096, 4 bits in groups of 128",
    ),
)
