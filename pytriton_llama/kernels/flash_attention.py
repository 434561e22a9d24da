"""Attention without its matrix of scores.

    o[i] = Σⱼ softmaxⱼ(scale · q[i]·k[j]) · v[j]        over the keys j that query i sees

    q, o: (batch, heads, length_q, D)   k, v: (batch, kv_heads, length_k, D)   heads a multiple of kv_heads

One program holds BLOCK_M queries and walks along the keys, BLOCK_N at a time. It keeps each query's running maximum
and sum, rescales what it has when the maximum grows, and divides once at the end. Key/value head h serves the query
heads h · group … h · group + group − 1; nothing is repeated in memory.

Sequences of different lengths may also lie one after the other, without padding (``flash_attention_varlen``).

With ``causal``, query i stands at key position i + length_k − length_q: the last query sees the last key, as in a
prefill on top of a cache. Tiles of keys that no query of the block sees are skipped; only tiles that some see and
some don't are masked.

On sm_90 ``flash_attention_hopper.py`` takes over what it can take.

Dao, "FlashAttention-2", 2023 (arXiv:2307.08691).
"""

import math

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, near, need, takes_gluon


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
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    k_ptrs = k_ptr + (start + offs_n).to(tl.int64)[:, None] * k_row_stride + offs_d[None, :]
    v_ptrs = v_ptr + (start + offs_n).to(tl.int64)[:, None] * v_row_stride + offs_d[None, :]
    for start_n in range(start, stop, BLOCK_N):
        keys = start_n + offs_n
        # Zeros, not garbage, where there is no key: 0 · NaN in the second dot would be NaN.
        mask = (offs_d < HEAD_DIM)[None, :]
        if MASKED:
            mask = mask & (keys < length_k)[:, None]
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
        if v.dtype == tl.float32:
            # The tile's own sum first: acc is rounded once a tile, where the dot would round it at every key.
            acc = tl.fma(acc, rescale[:, None], tl.dot(p, v, input_precision="ieee"))
        else:
            acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None])
        row_max = new_max
        k_ptrs += BLOCK_N * k_row_stride
        v_ptrs += BLOCK_N * v_row_stride
    return acc, row_max, row_sum


@triton.jit
def find_sequence(
    pid_m, cu_seqlens_q_ptr, cu_seqlens_k_ptr, num_sequences, BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr
):
    """Which of the queries that lie one after the other are block ``pid_m``'s: its number within a sequence, then that
    sequence's first query and length, and its first key and length."""
    offs_b = tl.arange(0, BLOCK_B)
    mask = offs_b < num_sequences
    starts = tl.load(cu_seqlens_q_ptr + offs_b, mask=mask, other=0)
    ends = tl.load(cu_seqlens_q_ptr + offs_b + 1, mask=mask, other=0)
    # No block has queries of two sequences. Blocks of this and all earlier sequences:
    blocks = tl.cumsum(tl.cdiv(ends - starts, BLOCK_M), 0)
    before = blocks <= pid_m
    pid_m -= tl.max(tl.where(before, blocks, 0), 0)
    # The grid is made for the worst case; a block that nobody needs is one past the last sequence, and gets none.
    sequence = tl.sum((before & mask).to(tl.int32), 0)
    needed = sequence < num_sequences
    first_q = tl.load(cu_seqlens_q_ptr + sequence)
    stop_q = tl.load(cu_seqlens_q_ptr + sequence + 1, mask=needed, other=0)
    first_k = tl.load(cu_seqlens_k_ptr + sequence)
    stop_k = tl.load(cu_seqlens_k_ptr + sequence + 1, mask=needed, other=0)
    return pid_m, first_q, tl.maximum(stop_q - first_q, 0), first_k, tl.maximum(stop_k - first_k, 0)


@triton.jit
def flash_attention_kernel(
    o_ptr,
    lse_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    cu_seqlens_q_ptr,
    cu_seqlens_k_ptr,
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
    num_sequences,
    length_q,
    length_k,
    window,
    qk_scale,
    CAUSAL: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    num_pid_m = tl.cdiv(length_q, BLOCK_M)
    if cu_seqlens_q_ptr is not None:
        num_pid_m += num_sequences  # each sequence's last block may be a short one
    pid_m = tl.program_id(0) % num_pid_m
    # 64-bit before they meet a stride: batch × heads × length × D can pass 2³¹.
    batch = (tl.program_id(0) // num_pid_m // num_heads).to(tl.int64)
    head = (tl.program_id(0) // num_pid_m % num_heads).to(tl.int64)
    q_ptr += batch * q_batch_stride + head * q_head_stride
    o_ptr += batch * o_batch_stride + head * o_head_stride
    k_ptr += batch * k_batch_stride + head // group * k_head_stride
    v_ptr += batch * v_batch_stride + head // group * v_head_stride
    if cu_seqlens_q_ptr is not None:
        pid_m, first_q, length_q, first_k, length_k = find_sequence(
            pid_m, cu_seqlens_q_ptr, cu_seqlens_k_ptr, num_sequences, BLOCK_M, BLOCK_B
        )
        q_ptr += first_q.to(tl.int64) * q_row_stride
        o_ptr += first_q.to(tl.int64) * o_row_stride
        k_ptr += first_k.to(tl.int64) * k_row_stride
        v_ptr += first_k.to(tl.int64) * v_row_stride

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
        # Beside a score of +inf all others are nothing; in the sum its own inf − inf is not a number.
        lse = tl.where(row_max == float("inf"), row_max, row_max + tl.log2(row_sum)) * 0.6931471805599453
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
        (batch, heads, length_q, head_dim) of q's dtype, 0 where a query sees no key, or none with a score above −inf;
        with ``return_lse`` also float32 (batch, heads, length_q), −inf there. A NaN or inf among the values of a key
        that a query does not see may or may not reach it (as 0 · NaN, by tile).

    Raises:
        TypeError, ValueError: shapes that do not fit, head_dim outside 16 … 256, a window without ``causal``, and
            :func:`~pytriton_llama.kernels.arguments.check`.
    """
    check("flash_attention", q=q, k=k, v=v)
    shapes = f"flash_attention: q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    need(q.dim() == k.dim() == v.dim() == 4, f"{shapes}; needed: (batch, heads, length, head_dim)")
    check_shapes("flash_attention", q, k, v, causal, window)
    batch, heads, length_q, head_dim = q.shape
    o = torch.empty((batch, length_q, heads, head_dim), dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty((batch, heads, length_q), dtype=torch.float32, device=q.device) if return_lse else None
    launch_attention(o, lse, q, k, v, causal, scale, window)
    return o if lse is None else (o, lse)


def flash_attention_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """:func:`flash_attention` of sequences that lie one after the other, each among its own keys; forward only.

    Args:
        q: (total_q, heads, head_dim); any strides with a unit last one; head_dim 16 … 256.
        k, v: (total_k, kv_heads, head_dim), likewise; heads must be a multiple of kv_heads.
        cu_seqlens_q, cu_seqlens_k: int32 (sequences + 1,), cumulative lengths from 0 to total_q and total_k. What they
            say is not checked, which would cost a wait for the GPU.
        causal, scale, window: as :func:`flash_attention`'s, of each sequence.

    Returns:
        (total_q, heads, head_dim) of q's dtype, 0 where a query sees no key.

    Raises:
        TypeError, ValueError: as :func:`flash_attention`; cumulative lengths of another dtype, device or shape.
    """
    op = "flash_attention_varlen"
    check(op, q=q, k=k, v=v)
    shapes = f"{op}: q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    need(q.dim() == k.dim() == v.dim() == 3, f"{shapes}; needed: (total, heads, head_dim)")
    for name, t in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if t.dtype != torch.int32 or t.device != q.device:
            raise TypeError(f"{op}: {name} is {t.dtype} on {t.device}; needed: int32 on {q.device}")
    need(
        cu_seqlens_q.dim() == 1 and cu_seqlens_q.shape == cu_seqlens_k.shape and len(cu_seqlens_q) > 0,
        f"{op}: cu_seqlens_q is {tuple(cu_seqlens_q.shape)}, cu_seqlens_k {tuple(cu_seqlens_k.shape)}; needed: "
        "(sequences + 1,) both",
    )
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))  # as one sequence of (1, heads, total, head_dim)
    check_shapes(op, q, k, v, causal, window)
    o = torch.empty((q.shape[2], q.shape[1], q.shape[3]), dtype=q.dtype, device=q.device)
    if len(cu_seqlens_q) > 1:
        cu_seqlens = cu_seqlens_q.contiguous(), cu_seqlens_k.contiguous()
        launch_attention(o.transpose(0, 1)[None], None, q, k, v, causal, scale, window, cu_seqlens)
    return o


def check_shapes(op: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, window: int | None) -> None:
    """Raise unless (batch, heads, length, head_dim) tensors fit together; errors as :func:`flash_attention`."""
    shapes = f"{op}: q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    batch, heads, _, head_dim = q.shape
    kv_heads, length_k = k.shape[1:3]
    need(k.shape == v.shape == (batch, kv_heads, length_k, head_dim), f"{shapes}; batch and head_dim must agree")
    need(kv_heads > 0 and heads % kv_heads == 0, f"{shapes}; heads must be a multiple of key/value heads")
    need(16 <= head_dim <= 256, f"{op}: head_dim is {head_dim}; needed: 16 … 256")
    need(
        window is None or (causal and window > 0),
        f"{op}: window is {window}; it must be positive, and needs causal=True",
    )
    need(q.stride(3) == k.stride(3) == v.stride(3) == 1, f"{op}: q, k and v need a last stride of 1")


def launch_attention(o, lse, q, k, v, causal, scale, window, cu_seqlens=(None, None)) -> None:
    """Launch what is fastest for these (batch, heads, length, head_dim) tensors."""
    if not o.numel():
        return
    head_dim = q.shape[3]
    qk_scale = (head_dim**-0.5 if scale is None else scale) * math.log2(math.e)  # exp2 is one instruction, exp is two
    # The Gluon kernel looks for maxima before it scales.
    if cu_seqlens[0] is None and qk_scale > 0 and takes_gluon(q, k, v):
        from pytriton_llama.kernels import flash_attention_hopper  # an older Triton could not import it

        flash_attention_hopper.launch(o, lse, q, k, v, causal, qk_scale, window)
    else:
        launch_triton(o, lse, q, k, v, causal, qk_scale, window, cu_seqlens)


def launch_triton(o, lse, q, k, v, causal, qk_scale, window, cu_seqlens=(None, None)) -> None:
    """Launch :func:`flash_attention_kernel`, which takes everything that :func:`flash_attention` does."""
    batch, heads, length_q, head_dim = q.shape
    length_k = k.shape[2]
    k, v = near(k), near(v)
    tile = tiles.flash_attention(length_q, length_k, head_dim, q)
    num_sequences = 0 if cu_seqlens[0] is None else len(cu_seqlens[0]) - 1
    num_pid_m = triton.cdiv(length_q, tile["BLOCK_M"]) + num_sequences
    flash_attention_kernel[(num_pid_m * batch * heads,)](
        o,
        lse,
        q,
        k,
        v,
        *cu_seqlens,
        *o.stride()[:3],
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        heads,
        heads // k.shape[1],
        num_sequences,
        length_q,
        length_k,
        window,
        qk_scale,
        CAUSAL=causal,
        HEAD_DIM=head_dim,
        BLOCK_B=triton.next_power_of_2(max(1, num_sequences)),
        **tile,
    )
