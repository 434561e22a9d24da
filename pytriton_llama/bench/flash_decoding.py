"""Attention of one query a sequence over its cache, beside torch's.

A point's shape is (batch, heads, kv_heads, max_length, head_dim). Sequence b's length is max_length / 2^(b mod 6): one
sequence has all of it, a batch is a mixture.
"""

import torch
from torch.nn import functional as F

from pytriton_llama import reference
from pytriton_llama.bench.case import Case, Draw, Inputs, Point, Run, compiled

LENGTHS = tuple(1024 << i for i in range(8))
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def lengths(point: Point) -> list[int]:
    return [max(1, point.shape[3] >> b % 6) for b in range(point.shape[0])]


def inputs(point: Point, draw: Draw) -> Inputs:
    batch, heads, kv_heads, max_length, head_dim = point.shape
    q, k, v = draw(batch, heads, head_dim), *(draw(batch, kv_heads, max_length, head_dim) for _ in range(2))
    return q, k, v, torch.tensor(lengths(point), dtype=torch.int32, device=q.device)


def moved(point: Point) -> int:
    """Keys and values up to each length, and the lengths; q in, o out."""
    batch, heads, kv_heads, _, head_dim = point.shape
    elements = 2 * kv_heads * head_dim * sum(lengths(point)) + 2 * batch * heads * head_dim
    return elements * point.itemsize + 4 * batch


def flops(point: Point) -> int:
    """Two products of 2·length·head_dim a head."""
    _, heads, _, _, head_dim = point.shape
    return 4 * heads * head_dim * sum(lengths(point))


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """It has no lengths: one sequence needs none, several need a mask."""
    mask = None
    if q.shape[0] > 1:
        mask = (torch.arange(k.shape[2], device=q.device) < lengths[:, None])[:, None, None]
    return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=mask, enable_gqa=True)[:, :, 0]


def flex_attention() -> Run:
    from torch.nn.attention.flex_attention import flex_attention as flex

    return compiled(lambda q, k, v, lengths: flex(q[:, :, None], k, v, enable_gqa=True)[:, :, 0])()


def case(
    points: tuple[Point, ...], quick: tuple[Point, ...], name: str, peers: dict, axis: str, swept: int, setting: str
) -> Case:
    return Case(
        op="flash_decoding",
        name=name,
        kernel="flash_decoding",
        result=name.replace("_", "-"),
        points=points,
        quick=quick,
        inputs=inputs,
        oracle=reference.flash_decoding,
        peers={"SDPA": lambda: sdpa} | peers,
        bytes=moved,
        flops=flops,
        axis=axis,
        swept=swept,
        setting=setting,
    )


BY_LENGTH = tuple(Point((1, 32, 8, length, 128), "bf16") for length in LENGTHS)
BY_BATCH = tuple(Point((batch, 32, 8, 16384, 128), "bf16") for batch in BATCHES)

CASES = (
    case(
        BY_LENGTH,
        BY_LENGTH[::3],
        "flash_decoding",
        {"flex + torch.compile": flex_attention},
        "length",
        3,
        "one sequence, 32 heads of 128, 8 of keys and values",
    ),
    case(
        BY_BATCH,
        BY_BATCH[:3],  # with a mask, SDPA repeats keys and values for every head
        "flash_decoding_batches",
        {},
        "batch",
        0,
        "lengths of 512 … 16384 mixed, 32 heads of 128, 8 of keys and values",
    ),
)
