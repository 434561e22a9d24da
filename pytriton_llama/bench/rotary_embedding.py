"""Rotary embedding of q and k in one call, beside Hugging Face's formula, torch.compile's and Liger-Kernel's.

Shapes are Llama-3.2-1B's (32 heads of q, 8 of k, 64 wide) and Llama-3.1-8B's (128 wide). q and k lie as their
projections leave them: positions before heads.
"""

import torch

from pytriton_llama import reference
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, Run, compiled, liger

HEADS, KV_HEADS = 32, 8


def inputs(point: Point, draw: Draw) -> Inputs:
    batch, length, head_dim = point.shape
    q, k = (draw(batch, length, heads, head_dim).transpose(1, 2) for heads in (HEADS, KV_HEADS))
    # Any angles will do, as long as both halves have the same.
    angles = draw(length, head_dim // 2, dtype=torch.float32).repeat(1, 2)
    return q, k, angles.cos(), angles.sin()


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, -1)
    return torch.cat((-high, low), -1)


def eager(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As Hugging Face's Llama has it, which rounds the tables to q's dtype."""
    cos, sin = cos.to(q.dtype), sin.to(q.dtype)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def liger_rope() -> Run:
    forward = liger("rope", "LigerRopeFunction")
    # It turns q and k in place: the same bytes, half the memory.
    return lambda q, k, cos, sin: forward(q, k, cos[None], sin[None])[:2]


def moved(point: Point) -> int:
    """q and k in and out; cos and sin in, float32, once for all heads and sequences."""
    batch, length, head_dim = point.shape
    return 2 * batch * (HEADS + KV_HEADS) * length * head_dim * point.itemsize + 2 * length * head_dim * 4


def flops(point: Point) -> int:
    """Two products and a sum an element."""
    batch, length, head_dim = point.shape
    return 3 * batch * (HEADS + KV_HEADS) * length * head_dim


def prefill_of_1b(point: Point) -> bool:
    """The shape whose lengths make one line of the plot."""
    return point.shape[0] == 4 and point.shape[2] == 64


_POINTS = tuple(
    Point(shape, dtype)
    for dtype in ("fp16", "bf16")
    for shape in [(4, length, 64) for length in (512, 1000, 1024, 2048, 4096, 4097, 8192, 16384)]
    + [(4, 4096, 128), (1, 1, 64), (1, 1, 128), (32, 1, 128)]
)

CASES = (
    Case(
        op="rotary_embedding",
        kernel="rotary_embedding",
        result="rotary-embedding-forward",
        points=_POINTS,
        quick=tuple(Point((4, length, 64), "fp16") for length in (1024, 4096)),
        inputs=inputs,
        oracle=reference.rotary_embedding,
        peers={"torch": lambda: eager, "torch.compile": compiled(eager), "Liger-Kernel": liger_rope},
        bytes=moved,
        flops=flops,
        axis="length",
        swept=1,
        setting="4 sequences, 32 + 8 heads of 64",
        plotted=prefill_of_1b,
    ),
)
