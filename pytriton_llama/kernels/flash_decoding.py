"""Attention of one new query a sequence over its cache, the cache split among programs.

    o[b, h] = Σⱼ softmaxⱼ(scale · q[b, h]·k[b, h // group, j]) · v[b, h // group, j]      over j < lengths[b]

    q, o: (batch, heads, D)   k_cache, v_cache: (batch, kv_heads, max_length, D)   lengths: (batch,)

One query gives :mod:`~pytriton_llama.kernels.flash_attention` one program a head: too few for a GPU. Here SPLITS
programs share the keys of one key/value head, each for all query heads of its group, and leave a result oₛ with its
log-sum-exp lₛ. A second kernel merges them:

    o = Σₛ 2^(lₛ − l) · oₛ      with l = log2 Σₛ 2^lₛ

Dao, Haziza, Massa and Sizov, "Flash-Decoding for long-context inference", 2023.
"""

import math

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, need
from pytriton_llama.kernels.flash_attention import attend


@triton.jit
def split_kernel(
    partial_ptr,
    lse_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    lengths_ptr,
    q_batch_stride,
    q_head_stride,
    k_batch_stride,
    k_head_stride,
    k_row_stride,
    v_batch_stride,
    v_head_stride,
    v_row_stride,
    kv_heads,
    window,
    qk_scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # 64-bit before they meet a stride: a large cache passes 2³¹ elements.
    batch = (tl.program_id(0) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(0) % kv_heads).to(tl.int64)
    split = tl.program_id(1)
    length = tl.load(lengths_ptr + batch).to(tl.int32)
    oldest = 0
    if window is not None:
        oldest = tl.maximum(length - window, 0)
    # Each split takes as many whole tiles; the last ones may be left with none.
    keys_per_split = tl.cdiv(tl.cdiv(length - oldest, BLOCK_N), SPLITS) * BLOCK_N
    start = oldest + split * keys_per_split
    stop = tl.minimum(start + keys_per_split, length)

    # The group's query heads are the rows of one tile: the cache is read once for all of them.
    offs_g = tl.arange(0, BLOCK_G)
    offs_d = tl.arange(0, BLOCK_D)
    heads = kv_head * GROUP + offs_g
    mask = (offs_g[:, None] < GROUP) & (offs_d[None, :] < HEAD_DIM)
    q_ptrs = q_ptr + batch * q_batch_stride + heads[:, None] * q_head_stride + offs_d[None, :]
    q = tl.load(q_ptrs, mask=mask, other=0.0)
    # Masked throughout: the last tile may reach past `stop`, into keys that no one has written yet.
    acc, row_max, row_sum = attend(
        tl.zeros((BLOCK_G, BLOCK_D), tl.float32), tl.full((BLOCK_G,), float("-inf"), tl.float32),
        tl.zeros((BLOCK_G,), tl.float32), q, k_ptr + batch * k_batch_stride + kv_head * k_head_stride,
        v_ptr + batch * v_batch_stride + kv_head * v_head_stride, k_row_stride, v_row_stride, offs_g,
        start, stop, stop, None, qk_scale,
        True, False, HEAD_DIM, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    # An empty split leaves 0 and −inf, never 0 / 0.
    partial = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    rows = (batch * kv_heads * GROUP + heads) * SPLITS + split
    tl.store(partial_ptr + rows[:, None] * HEAD_DIM + offs_d[None, :], partial, mask=mask)
    tl.store(lse_ptr + rows, row_max + tl.log2(row_sum), mask=offs_g < GROUP)


@triton.jit
def merge_kernel(
    o_ptr,
    partial_ptr,
    lse_ptr,
    rows,
    HEAD_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # A row is one query head of one sequence; its splits lie side by side.
    offs_r = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    offs_s = offs_r[:, None] * SPLITS + tl.arange(0, SPLITS)[None, :]
    offs_d = tl.arange(0, BLOCK_D)
    mask_r = offs_r < rows
    mask_d = offs_d < HEAD_DIM
    lse = tl.load(lse_ptr + offs_s, mask=mask_r[:, None], other=float("-inf"))
    top = tl.max(lse, axis=1)
    # An empty sequence has −inf everywhere: weights 2^(−inf − 0) = 0, and a result of 0.
    weights = tl.exp2(lse - tl.where(top == float("-inf"), 0.0, top)[:, None])
    total = tl.sum(weights, axis=1)
    partial_ptrs = partial_ptr + offs_s[:, :, None] * HEAD_DIM + offs_d[None, None, :]
    partial = tl.load(partial_ptrs, mask=mask_r[:, None, None] & mask_d[None, None, :], other=0.0)
    o = tl.sum(partial * weights[:, :, None], axis=1) / tl.where(total == 0.0, 1.0, total)[:, None]
    o_ptrs = o_ptr + offs_r[:, None] * HEAD_DIM + offs_d[None, :]
    tl.store(o_ptrs, o.to(o_ptr.dtype.element_ty), mask=mask_r[:, None] & mask_d[None, :])


def flash_decoding(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of each sequence's newest query over its cached keys and values; forward only.

    Args:
        q: (batch, heads, head_dim), unit last stride; head_dim 16 … 256.
        k_cache, v_cache: (batch, kv_heads, max_length, head_dim), unit last stride; heads a multiple of kv_heads.
        lengths: (batch,) int32: how many keys each sequence has, its newest token's among them; what lies beyond is
            never read. They stay on the device; a length above max_length is the caller's error.
        scale: of the scores; default 1/√head_dim.
        window: only the ``window`` newest keys are seen.

    Returns:
        (batch, heads, head_dim) of q's dtype; 0 for a sequence of length 0.

    Raises:
        TypeError, ValueError: shapes that do not fit, lengths not int32, head_dim outside 16 … 256, a window below 1,
            and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    check("flash_decoding", q=q, k_cache=k_cache, v_cache=v_cache)
    shapes = f"flash_decoding: q is {tuple(q.shape)}, k_cache {tuple(k_cache.shape)}, v_cache {tuple(v_cache.shape)}"
    need(
        q.dim() == 3 and k_cache.dim() == 4,
        f"{shapes}; needed: q (batch, heads, head_dim), caches 4-dimensional",
    )
    batch, heads, head_dim = q.shape
    kv_heads, max_length = k_cache.shape[1:3]
    need(
        k_cache.shape == v_cache.shape == (batch, kv_heads, max_length, head_dim),
        f"{shapes}; needed: caches (batch, kv_heads, max_length, head_dim) that agree with q",
    )
    need(kv_heads > 0 and heads % kv_heads == 0, f"{shapes}; heads must be a multiple of key/value heads")
    need(16 <= head_dim <= 256, f"flash_decoding: head_dim is {head_dim}; needed: 16 … 256")
    need(window is None or window > 0, f"flash_decoding: window is {window}; it must be positive")
    if lengths.dtype != torch.int32:
        raise TypeError(f"flash_decoding: lengths are {lengths.dtype}; needed: int32")
    need(lengths.shape == (batch,), f"flash_decoding: lengths are {tuple(lengths.shape)}; needed: ({batch},)")
    need(lengths.device == q.device, f"flash_decoding: lengths are on {lengths.device} but q is on {q.device}")
    need(
        q.stride(2) == k_cache.stride(3) == v_cache.stride(3) == 1,
        "flash_decoding: q and the caches need a last stride of 1",
    )
    o = torch.empty((batch, heads, head_dim), dtype=q.dtype, device=q.device)
    if o.numel():
        tile = tiles.flash_decoding(batch * kv_heads, heads // kv_heads, max_length, head_dim, q.device)
        splits, block_rows = tile["SPLITS"], tile.pop("BLOCK_ROWS")
        partial = torch.empty((batch, heads, splits, head_dim), dtype=torch.float32, device=q.device)
        lse = torch.empty((batch, heads, splits), dtype=torch.float32, device=q.device)
        group = heads // kv_heads
        scale = head_dim**-0.5 if scale is None else scale
        split_kernel[(batch * kv_heads, splits)](
            partial,
            lse,
            q,
            k_cache,
            v_cache,
            lengths.contiguous(),
            *q.stride()[:2],
            *k_cache.stride()[:3],
            *v_cache.stride()[:3],
            kv_heads,
            window,
            scale * math.log2(math.e),
            GROUP=group,
            HEAD_DIM=head_dim,
            **tile,
        )
        merge_kernel[(triton.cdiv(batch * heads, block_rows),)](
            o,
            partial,
            lse,
            batch * heads,
            HEAD_DIM=head_dim,
            SPLITS=splits,
            BLOCK_ROWS=block_rows,
            BLOCK_D=tile["BLOCK_D"],
        )
    return o
