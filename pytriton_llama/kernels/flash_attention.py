"""Attention without its matrix of scores.

    o[i] = Σⱼ softmaxⱼ(scale · q[i]·k[j]) · v[j]        over the keys j that query i sees

    q, o: (batch, heads, length_q, D)   k, v: (batch, kv_heads, length_k, D)   heads a multiple of kv_heads

One program holds BLOCK_M queries and walks along the keys, BLOCK_N at a time. It keeps each query's running maximum
and sum, rescales what it has when the maximum grows, and divides once at the end. Key/value head h serves the query
heads h · group … h · group + group − 1; nothing is repeated in memory.

With ``causal``, query i stands at key position i + length_k − length_q: the last query sees the last key, as in a
prefill on top of a cache. Tiles of keys that no query of the block sees are skipped; only tiles that some see and
some don't are masked.

Dao, "FlashAttention-2", 2023 (arXiv:2307.08691).
"""

import math

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, need


@triton.jit
def attend(
    acc,
    row_max,
    row_sum,
    q,
    k_ptr,
    v_ptr,
    k_row_stride,
    v_row_stride,
    positions,
    start,
    stop,
    length_k,
    window,
    qk_scale,
    MASKED: tl.constexpr,
    CAUSAL: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Take the keys from ``start`` to ``stop`` into the running softmax; MASKED: not every query sees every key."""
    offs_d = tl.arange(0, BLOCK_D)
    for start_n in range(start, stop, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        k_ptrs = k_ptr + keys.to(tl.int64)[:, None] * k_row_stride + offs_d[None, :]
        v_ptrs = v_ptr + keys.to(tl.int64)[:, None] * v_row_stride + offs_d[None, :]
        # Zeros, not garbage, where there is no key: 0 · NaN in the second dot would be NaN.
        mask = (keys[:, None] < length_k) & (offs_d[None, :] < HEAD_DIM)
        k = tl.load(k_ptrs, mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * qk_scale
        if MASKED:
            seen = keys[None, :] < length_k
            if CAUSAL:
                seen = seen & (keys[None, :] <= positions[:, None])
            if window is not None:
                seen = seen & (keys[None, :] > positions[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))
        # A query that has seen nothing yet has no maximum to shift by; −inf − (−inf) would be NaN.
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(scores - shift[:, None])
        rescale = tl.exp2(row_max - shift)
        row_sum = row_sum * rescale + tl.sum(p, axis=1)
        v = tl.load(v_ptrs, mask=mask, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit
def flash_attention_kernel(
    o_ptr,
    lse_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    o_batch_stride,
    o_head_stride,
    o_row_stride,
    q_batch_stride,
    q_head_stride,
    q_row_stride,
    k_batch_stride,
    k_head_stride,
    k_row_stride,
    v_batch_stride,
    v_head_stride,
    v_row_stride,
    num_heads,
    group,
    length_q,
    length_k,
    window,
    qk_scale,
    CAUSAL: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    num_pid_m = tl.cdiv(length_q, BLOCK_M)
    pid_m = tl.program_id(0) % num_pid_m
    # 64-bit before they meet a stride: batch × heads × length × D can pass 2³¹.
    batch = (tl.program_id(0) // num_pid_m // num_heads).to(tl.int64)
    head = (tl.program_id(0) // num_pid_m % num_heads).to(tl.int64)
    q_ptr += batch * q_batch_stride + head * q_head_stride
    o_ptr += batch * o_batch_stride + head * o_head_stride
    k_ptr += batch * k_batch_stride + head // group * k_head_stride
    v_ptr += batch * v_batch_stride + head // group * v_head_stride

    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    mask = (offs_m[:, None] < length_q) & (offs_d[None, :] < HEAD_DIM)
    q_ptrs = q_ptr + offs_m.to(tl.int64)[:, None] * q_row_stride + offs_d[None, :]
    q = tl.load(q_ptrs, mask=mask, other=0.0)

    # Keys seen by some query of the block: [first, stop); by all of them: [first_full, stop_full), in whole tiles.
    offset = length_k - length_q
    first = 0
    first_full = 0
    stop = length_k
    stop_full = length_k // BLOCK_N * BLOCK_N
    if CAUSAL:
        stop = tl.minimum(length_k, tl.maximum(pid_m * BLOCK_M + BLOCK_M + offset, 0))
        stop_full = tl.minimum(stop_full, tl.maximum(pid_m * BLOCK_M + 1 + offset, 0) // BLOCK_N * BLOCK_N)
    if window is not None:
        first = tl.maximum(pid_m * BLOCK_M + 1 + offset - window, 0) // BLOCK_N * BLOCK_N
        first_full = tl.cdiv(tl.maximum(pid_m * BLOCK_M + BLOCK_M + offset - window, 0), BLOCK_N) * BLOCK_N

    positions = offs_m + offset
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    # The maximum starts at −inf, not at 0: a row of scores may be negative throughout.
    row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    if window is not None:
        acc, row_max, row_sum = attend(
            acc, row_max, row_sum, q, k_ptr, v_ptr, k_row_stride, v_row_stride, positions,
            first, tl.minimum(first_full, stop), length_k, window, qk_scale,
            True, CAUSAL, HEAD_DIM, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    acc, row_max, row_sum = attend(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_row_stride, v_row_stride, positions,
        first_full, stop_full, length_k, window, qk_scale,
        False, CAUSAL, HEAD_DIM, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    acc, row_max, row_sum = attend(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_row_stride, v_row_stride, positions,
        tl.maximum(first_full, stop_full), stop, length_k, window, qk_scale,
        True, CAUSAL, HEAD_DIM, BLOCK_N, BLOCK_D,
    )  # fmt: skip

    # A query that saw no key has sum 0 and acc 0: its result is 0, not 0 / 0.
    o = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    o_ptrs = o_ptr + offs_m.to(tl.int64)[:, None] * o_row_stride + offs_d[None, :]
    tl.store(o_ptrs, o.to(o_ptr.dtype.element_ty), mask=mask)
    if lse_ptr is not None:
        # log Σ exp(s) = (max + log2 Σ 2^(s' − max)) · ln 2, where s' = s · log2 e. log2 0 = −inf is the empty row's.
        lse = (row_max + tl.log2(row_sum)) * 0.6931471805599453
        lse_ptrs = lse_ptr + (batch * num_heads + head) * length_q + offs_m
        tl.store(lse_ptrs, lse, mask=offs_m < length_q)


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention; forward only.

    Args:
        q: (batch, heads, length_q, head_dim); any strides with a unit last one; head_dim 16 … 256.
        k, v: (batch, kv_heads, length_k, head_dim), likewise; heads must be a multiple of kv_heads.
        causal: query i sees key j only when j ≤ i + length_k − length_q.
        scale: of the scores; default 1/√head_dim.
        window: query i sees only the ``window`` newest of those keys (needs ``causal``).
        return_lse: also return the natural log of the softmax's denominators.

    Returns:
        (batch, heads, length_q, head_dim) of q's dtype, 0 where a query sees no key; with ``return_lse`` also
        float32 (batch, heads, length_q), −inf there.

    Raises:
        TypeError, ValueError: shapes that do not fit, head_dim outside 16 … 256, a window without ``causal``, and
            :func:`~pytriton_llama.kernels.arguments.check`.
    """
    check("flash_attention", q=q, k=k, v=v)
    shapes = f"flash_attention: q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    need(q.dim() == k.dim() == v.dim() == 4, f"{shapes}; needed: (batch, heads, length, head_dim)")
    batch, heads, length_q, head_dim = q.shape
    kv_heads, length_k = k.shape[1:3]
    need(
        k.shape == v.shape == (batch, kv_heads, length_k, head_dim),
        f"{shapes}; batch and head_dim must agree",
    )
    need(kv_heads > 0 and heads % kv_heads == 0, f"{shapes}; heads must be a multiple of key/value heads")
    need(16 <= head_dim <= 256, f"flash_attention: head_dim is {head_dim}; needed: 16 … 256")
    need(
        window is None or (causal and window > 0),
        f"flash_attention: window is {window}; it must be positive, and needs causal=True",
    )
    need(q.stride(3) == k.stride(3) == v.stride(3) == 1, "flash_attention: q, k and v need a last stride of 1")
    o = torch.empty((batch, length_q, heads, head_dim), dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty((batch, heads, length_q), dtype=torch.float32, device=q.device) if return_lse else None
    if o.numel():
        tile = tiles.flash_attention(length_q, length_k, head_dim, q)
        scale = head_dim**-0.5 if scale is None else scale
        flash_attention_kernel[(triton.cdiv(length_q, tile["BLOCK_M"]) * batch * heads,)](
            o,
            lse,
            q,
            k,
            v,
            *o.stride()[:3],
            *q.stride()[:3],
            *k.stride()[:3],
            *v.stride()[:3],
            heads,
            heads // kv_heads,
            length_q,
            length_k,
            window,
            scale * math.log2(math.e),  # exp2 is one instruction, exp is two
            CAUSAL=causal,
            HEAD_DIM=head_dim,
            **tile,
        )
    return o if lse is None else (o, lse)
