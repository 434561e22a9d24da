"""Attention beside torch's: PyTorch's FlashAttention-2, cuDNN's kernel, and the matrix of scores written out.

A point's shape is (batch, heads, kv_heads, length, head_dim). Among the cases are the founding document's two.
"""

import math

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytriton_llama import reference
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, Run
from pytriton_llama.kernels.flash_attention import flash_attention, launch_triton

LENGTHS = (1024, 2048, 4096, 8192, 16384)
MOST_SCORES = 1 << 30  # bytes of scores that torch's maths is asked to write; in float32 it makes several such matrices


def inputs(point: Point, draw: Draw) -> Inputs:
    batch, heads, kv_heads, length, head_dim = point.shape
    return tuple(draw(batch, n, length, head_dim) for n in (heads, kv_heads, kv_heads))


def moved(point: Point) -> int:
    """q, k and v in, o out."""
    batch, heads, kv_heads, length, head_dim = point.shape
    return 2 * batch * (heads + kv_heads) * length * head_dim * point.itemsize


def case(batch: int, heads: int, kv_heads: int, head_dim: int, causal: bool, lengths: tuple[int, ...], name: str = ""):
    """All lengths of one shape. Floating-point operations are counted as everyone counts them: two products of
    2·length²·head_dim a head, half of that where causal."""

    def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        o, group = torch.empty_like(q), q.shape[1] // k.shape[1]
        for b in range(q.shape[0]):
            for h in range(q.shape[1]):  # one matrix of scores at a time: all would not fit
                q_bh, k_bh, v_bh = (t[None, None] for t in (q[b, h], k[b, h // group], v[b, h // group]))
                o[b, h] = reference.flash_attention(q_bh, k_bh, v_bh, causal)[0, 0]
        return o

    def sdpa(backend: SDPBackend) -> Run:
        def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=k.shape[1] < q.shape[1])

        return run

    def maths(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * q.element_size()
        if scores > MOST_SCORES:
            raise ValueError(f"the scores alone are {scores / 1e9:.0f} GB")
        return sdpa(SDPBackend.MATH)(q, k, v)

    def triton(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        o = torch.empty_like(q)
        launch_triton(o, None, q, k, v, causal, math.log2(math.e) * q.shape[-1] ** -0.5, None)
        return o

    def flops(point: Point) -> int:
        batch, heads, _, length, head_dim = point.shape
        return 4 * batch * heads * length**2 * head_dim // (2 if causal else 1)

    shape = f"batch{batch}-head{heads}" + (f"-kv{kv_heads}" if kv_heads < heads else "")
    result = f"fused-attention-{shape}-d{head_dim}-fwd-causal={causal}"
    points = tuple(Point((batch, heads, kv_heads, length, head_dim), "bf16") for length in lengths)
    return Case(
        op="flash_attention",
        name=name or result,
        kernel="flash_attention",
        result=result,
        points=points,
        quick=tuple(point for point in points if point.shape[3] in (1024, 4096)),
        inputs=inputs,
        oracle=oracle,
        ours=lambda q, k, v: flash_attention(q, k, v, causal),
        peers={
            "our Triton kernel": lambda: triton,
            "torch": lambda: maths,
            "SDPA flash": lambda: sdpa(SDPBackend.FLASH_ATTENTION),
            "SDPA cuDNN": lambda: sdpa(SDPBackend.CUDNN_ATTENTION),
        },
        bytes=moved,
        flops=flops,
        unit="TFLOP/s",
        axis="length",
        swept=3,
        setting=f"{batch} sequences, {heads} heads of {head_dim}, {kv_heads} of keys and values"
        + (", causal" if causal else ""),
    )


CASES = (
    case(4, 32, 8, 64, True, LENGTHS, "flash_attention"),  # Llama-3.2-1B's heads
    *(case(4, 32, 8, head_dim, causal, LENGTHS) for head_dim, causal in ((64, False), (128, False), (128, True))),
    *(case(4, 32, 32, head_dim, causal, LENGTHS) for head_dim in (64, 128) for causal in (False, True)),
    *(case(8, 64, 64, head_dim, causal, LENGTHS[:-1]) for head_dim in (64, 128) for causal in (False, True)),
)
