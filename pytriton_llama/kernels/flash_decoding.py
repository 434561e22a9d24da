"""Attention of one new query a sequence over its cache, the cache cut into pieces for many programs.

    o[b, h] = Σⱼ softmaxⱼ(scale · q[b, h]·k[b, h // group, j]) · v[b, h // group, j]      over j < lengths[b]

    q, o: (batch, heads, D)   k_cache, v_cache: (batch, kv_heads, max_length, D)   lengths: (batch,)

One query gives :mod:`~pytriton_llama.kernels.flash_attention` one program a head: too few for a GPU. Here the keys of
all sequences are cut into pieces of one size, about as many as the GPU has room for, and each piece is a program's, for
all query heads of a group. Lengths are read on the device: where the cuts are changes from step to step, the launch
does not, so that a CUDA graph can repeat it. A piece s leaves a result oₛ with its log-sum-exp lₛ; of the programs of a
sequence and key/value head, the last to finish merges them:

    o = Σₛ 2^(lₛ − l) · oₛ      with l = log2 Σₛ 2^lₛ

Dao, Haziza, Massa and Sizov, "Flash-Decoding for long-context inference", 2023.
"""

import math

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, counters, near, need
from pytriton_llama.kernels.flash_attention import attend
from pytriton_llama.kernels.linear import wait_and_let_in


@triton.jit
def find_piece(
    piece,
    lengths_ptr,
    batch_size,
    window,
    pieces,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIN_STEPS: tl.constexpr,
):
    """Whose keys are a program's: the sequence (``batch_size`` or more if nobody's), its first key and the one after
    its last, and the numbers of that sequence's first piece and of its pieces."""
    offs_b = tl.arange(0, BLOCK_B)
    mask = offs_b < batch_size
    stop = tl.load(lengths_ptr + offs_b, mask=mask, other=0)
    first = tl.zeros_like(stop)
    if window is not None:
        first = tl.maximum(stop - window, 0)
    steps = tl.cdiv(stop - first, BLOCK_N)
    # Of one size, whoever's they are: then no program works longer than a piece.
    steps_per_piece = tl.maximum(tl.cdiv(tl.sum(steps, 0), pieces), MIN_STEPS)
    # One at least: a sequence without keys has a result too, of zeros.
    count = tl.where(mask, tl.maximum(tl.cdiv(steps, steps_per_piece), 1), 0)
    ends = tl.cumsum(count, 0)
    sequence = tl.sum((ends <= piece).to(tl.int32), 0)
    mine = offs_b == sequence
    first_piece = tl.sum(tl.where(mine, ends - count, 0), 0)
    count = tl.sum(tl.where(mine, count, 0), 0)
    stop = tl.sum(tl.where(mine, stop, 0), 0)
    first = tl.sum(tl.where(mine, first, 0), 0) + (piece - first_piece) * steps_per_piece * BLOCK_N
    return sequence, first, tl.minimum(first + steps_per_piece * BLOCK_N, stop), first_piece, count


@triton.jit
def merge(partial_ptr, lse_ptr, stride, count, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """The results of ``count`` pieces, ``stride`` rows apart, as one: (rows of the group, BLOCK_D)."""
    BLOCK_R: tl.constexpr = triton.next_power_of_2(GROUP)
    BLOCK_S: tl.constexpr = 8
    offs_s, offs_r, offs_d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_D)
    acc = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_R,), tl.float32)
    top = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    for s in range(0, count, BLOCK_S):
        rows = (s + offs_s)[:, None] * stride + offs_r[None, :]
        mask = (s + offs_s < count)[:, None] & (offs_r < GROUP)[None, :]
        # What orders these loads after the others' stores is the count. ".cg" is a hint: nothing is read twice here.
        lse = tl.load(lse_ptr + rows, mask=mask, other=float("-inf"), cache_modifier=".cg")
        mask_d = mask[:, :, None] & (offs_d < HEAD_DIM)[None, None, :]
        ptrs = partial_ptr + rows[:, :, None] * HEAD_DIM + offs_d[None, None, :]
        partial = tl.load(ptrs, mask=mask_d, other=0.0, cache_modifier=".cg")
        new_top = tl.maximum(top, tl.max(lse, axis=0))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(lse - shift[None, :])
        rescale = tl.exp2(top - shift)
        acc = acc * rescale[:, None] + tl.sum(partial * weights[:, :, None], axis=0)
        total = total * rescale + tl.sum(weights, axis=0)
        top = new_top
    return acc / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit(do_not_specialize=["batch_size", "pieces"])
def flash_decoding_kernel(
    o_ptr,
    partial_ptr,
    lse_ptr,
    counter_ptr,
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
    batch_size,
    kv_heads,
    pieces,
    window,
    qk_scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PDL: tl.constexpr,
    AFTER_QKV: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MIN_STEPS: tl.constexpr,
):
    kv_head = tl.program_id(0) % kv_heads
    piece = tl.program_id(0) // kv_heads
    if not AFTER_QKV:
        wait_and_let_in(PDL, BLOCK_B == 1)
    sequence, start, stop, first_piece, count = find_piece(
        piece, lengths_ptr, batch_size, window, pieces, BLOCK_B, BLOCK_N, MIN_STEPS
    )
    if AFTER_QKV:
        wait_and_let_in(PDL, BLOCK_B == 1)
    # The launch is for the worst case: programs may be left over.
    if sequence < batch_size:
        # The group's query heads are the rows of one tile: the cache is read once for all of them.
        offs_g = tl.arange(0, BLOCK_G)
        offs_d = tl.arange(0, BLOCK_D)
        # 64-bit before they meet a stride: a large cache passes 2³¹ elements.
        batch, head = sequence.to(tl.int64), kv_head.to(tl.int64)
        heads = head * GROUP + offs_g
        mask_g = offs_g < GROUP
        mask = mask_g[:, None] & (offs_d[None, :] < HEAD_DIM)
        q_ptrs = q_ptr + batch * q_batch_stride + heads[:, None] * q_head_stride + offs_d[None, :]
        q = tl.load(q_ptrs, mask=mask, other=0.0)
        # Masked throughout: the last tile may reach past `stop`, into keys that no one has written yet.
        acc, row_max, row_sum = attend(
            tl.zeros((BLOCK_G, BLOCK_D), tl.float32), tl.full((BLOCK_G,), float("-inf"), tl.float32),
            tl.zeros((BLOCK_G,), tl.float32), q, k_ptr + batch * k_batch_stride + head * k_head_stride,
            v_ptr + batch * v_batch_stride + head * v_head_stride, k_row_stride, v_row_stride, offs_g,
            start, stop, stop, None, qk_scale,
            True, False, HEAD_DIM, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        # Without keys there is nothing to divide by: 0, never 0 / 0.
        acc = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
        o_rows = (batch * kv_heads + head) * GROUP
        if count == 1:
            o_ptrs = o_ptr + (o_rows + offs_g)[:, None] * HEAD_DIM + offs_d[None, :]
            tl.store(o_ptrs, acc.to(o_ptr.dtype.element_ty), mask=mask)
        else:
            rows = (piece.to(tl.int64) * kv_heads + head) * GROUP + offs_g
            tl.store(partial_ptr + rows[:, None] * HEAD_DIM + offs_d[None, :], acc, mask=mask)
            tl.store(lse_ptr + rows, row_max + tl.log2(row_sum), mask=mask_g)
            # All of this program's threads have stored before one of them counts it as done.
            tl.debug_barrier()
            done = tl.atomic_add(counter_ptr + batch * kv_heads + head, 1, sem="acq_rel")
            if done == count - 1:
                tl.store(counter_ptr + batch * kv_heads + head, 0)  # for the next launch
                row = (first_piece.to(tl.int64) * kv_heads + head) * GROUP
                o = merge(
                    partial_ptr + row * HEAD_DIM, lse_ptr + row, kv_heads * GROUP, count, GROUP, HEAD_DIM, BLOCK_D
                )
                offs_r = tl.arange(0, o.shape[0])
                merged_ptrs = o_ptr + (o_rows + offs_r)[:, None] * HEAD_DIM + offs_d[None, :]
                mask_o = (offs_r < GROUP)[:, None] & (offs_d < HEAD_DIM)[None, :]
                tl.store(merged_ptrs, o.to(o_ptr.dtype.element_ty), mask=mask_o)


def flash_decoding(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    scale: float | None = None,
    window: int | None = None,
    after_qkv: bool = False,
) -> torch.Tensor:
    """Attention of each sequence's newest query over its cached keys and values; forward only.

    Args:
        q: (batch, heads, head_dim), unit last stride; head_dim 16 … 256.
        k_cache, v_cache: (batch, kv_heads, max_length, head_dim), unit last stride; heads a multiple of kv_heads.
        lengths: (batch,) int32: how many keys each sequence has, its newest token's among them; what lies beyond is
            never read. They stay on the device; a length above max_length is the caller's error.
        scale: of the scores; default 1/√head_dim.
        window: only the ``window`` newest keys are seen.
        after_qkv: the previous launch was :func:`~pytriton_llama.kernels.decode_qkv`, with these lengths. They are then
            read while it is still at work: it lets no program of this one start before it has seen them itself.

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
        k_cache, v_cache = near(k_cache), near(v_cache)
        group = heads // kv_heads
        scale = head_dim**-0.5 if scale is None else scale
        pieces, tile = tiles.flash_decoding(batch, kv_heads, group, max_length, head_dim, q)
        # Each sequence but one may have a piece more, one that is not full.
        programs = (pieces + batch - 1) * kv_heads
        partial = torch.empty((programs, group, head_dim), dtype=torch.float32, device=q.device)
        lse = torch.empty((programs, group), dtype=torch.float32, device=q.device)
        flash_decoding_kernel[(programs,)](
            o,
            partial,
            lse,
            counters(batch * kv_heads, q.device),
            q,
            k_cache,
            v_cache,
            lengths.contiguous(),
            *q.stride()[:2],
            *k_cache.stride()[:3],
            *v_cache.stride()[:3],
            batch,
            kv_heads,
            pieces,
            window,
            scale * math.log2(math.e),
            GROUP=group,
            HEAD_DIM=head_dim,
            AFTER_QKV=after_qkv and lengths.is_contiguous(),
            **tiles.dependent(q.device),
            **tile,
        )
    return o
