"""Rotary position embedding in the half-split layout of Hugging Face's checkpoints.

    (q[i], q[i + D/2]) is turned by the angle position · θᵢ, for i < D/2:

    q'[i]       = q[i] · cos[i] − q[i + D/2] · sin[i]
    q'[i + D/2] = q[i + D/2] · cos[i + D/2] + q[i] · sin[i + D/2]

    q: (batch, heads, length, D)   k: (batch, kv_heads, length, D)   cos, sin: (length, D) or (batch, length, D)

One program turns all heads of q and k at its positions, so that the angles are loaded once. The interleaved layout
(q[2i], q[2i + 1]) of Meta's own checkpoints is not handled: their converters permute the weights instead.

Su et al., "RoFormer", 2021 (arXiv:2104.09864).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, need_no_grad


@triton.jit
def head_tile(
    head_stride,
    row_stride,
    offs_l,
    mask_l,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    """Offsets and mask of the lower halves of all heads at some positions: (heads, positions, D/2)."""
    # Heads may lie so far apart that head × stride passes 2³¹.
    offs_h = tl.arange(0, BLOCK_H).to(tl.int64)[:, None, None]
    offs_d = tl.arange(0, BLOCK_HALF)[None, None, :]
    # Heads and halves are padded to powers of two: three conditions, one an axis.
    mask = (offs_h < HEADS) & mask_l[None, :, None] & (offs_d < HALF)
    return offs_h * head_stride + offs_l[None, :, None] * row_stride + offs_d, mask


@triton.jit
def store_turned(out_ptrs, low, high, cos_low, sin_low, cos_high, sin_high, mask, HALF: tl.constexpr):
    low, high = low.to(tl.float32), high.to(tl.float32)
    turned_low = low * cos_low[None, :, :] - high * sin_low[None, :, :]
    turned_high = high * cos_high[None, :, :] + low * sin_high[None, :, :]
    tl.store(out_ptrs, turned_low.to(out_ptrs.dtype.element_ty), mask=mask)
    tl.store(out_ptrs + HALF, turned_high.to(out_ptrs.dtype.element_ty), mask=mask)


@triton.jit
def rotary_embedding_kernel(
    q_out_ptr,
    k_out_ptr,
    q_ptr,
    k_ptr,
    cos_ptr,
    sin_ptr,
    length,
    q_batch_stride,
    q_head_stride,
    q_row_stride,
    k_batch_stride,
    k_head_stride,
    k_row_stride,
    cos_batch_stride,
    cos_row_stride,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    # Along one axis of the grid: the others end at 65535.
    blocks = tl.cdiv(length, BLOCK_L)
    # 64-bit before they meet a stride: a long batch passes 2³¹ elements.
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    offs_l = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    mask_l = offs_l < length
    # Everything is asked for before anything is stored: the compiler can't move a load up past a store, which might
    # have written what it reads.
    q_offs, q_mask = head_tile(q_head_stride, q_row_stride, offs_l, mask_l, Q_HEADS, HALF, BLOCK_Q, BLOCK_HALF)
    q_ptrs = q_ptr + batch * q_batch_stride + q_offs
    q_low = tl.load(q_ptrs, mask=q_mask, other=0.0)
    q_high = tl.load(q_ptrs + HALF, mask=q_mask, other=0.0)
    k_offs, k_mask = head_tile(k_head_stride, k_row_stride, offs_l, mask_l, K_HEADS, HALF, BLOCK_K, BLOCK_HALF)
    k_ptrs = k_ptr + batch * k_batch_stride + k_offs
    k_low = tl.load(k_ptrs, mask=k_mask, other=0.0)
    k_high = tl.load(k_ptrs + HALF, mask=k_mask, other=0.0)
    offs_d = tl.arange(0, BLOCK_HALF)[None, :]
    mask = mask_l[:, None] & (offs_d < HALF)
    angle_offs = batch * cos_batch_stride + offs_l[:, None] * cos_row_stride + offs_d
    cos_low = tl.load(cos_ptr + angle_offs, mask=mask, other=0.0)
    sin_low = tl.load(sin_ptr + angle_offs, mask=mask, other=0.0)
    # The tables repeat themselves in the second half; read as given, a caller may pass any rotation.
    cos_high = tl.load(cos_ptr + angle_offs + HALF, mask=mask, other=0.0)
    sin_high = tl.load(sin_ptr + angle_offs + HALF, mask=mask, other=0.0)
    # Results are laid out as (batch, length, heads, D): the order in which the next projections read them.
    q_row: tl.constexpr = Q_HEADS * HALF * 2
    k_row: tl.constexpr = K_HEADS * HALF * 2
    q_offs, _ = head_tile(HALF * 2, q_row, offs_l, mask_l, Q_HEADS, HALF, BLOCK_Q, BLOCK_HALF)
    k_offs, _ = head_tile(HALF * 2, k_row, offs_l, mask_l, K_HEADS, HALF, BLOCK_K, BLOCK_HALF)
    q_out_ptrs = q_out_ptr + batch * length * q_row + q_offs
    k_out_ptrs = k_out_ptr + batch * length * k_row + k_offs
    store_turned(q_out_ptrs, q_low, q_high, cos_low, sin_low, cos_high, sin_high, q_mask, HALF)
    store_turned(k_out_ptrs, k_low, k_high, cos_low, sin_low, cos_high, sin_high, k_mask, HALF)


def rotary_embedding(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn q and k by their positions' angles; forward only.

    Args:
        q: (batch, heads, length, head_dim), any strides with a unit last one.
        k: (batch, kv_heads, length, head_dim), likewise.
        cos, sin: float32, (length, head_dim) or (batch, length, head_dim), as Hugging Face makes them.

    Returns:
        New (q, k) of the same shapes and dtypes, computed in float32; heads follow positions in memory, in the order in
        which a projection reads them.

    Raises:
        TypeError, ValueError: shapes that do not fit, cos or sin not float32, an odd head_dim, a last stride other
            than 1, and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    check("rotary_embedding", q=q, k=k)
    for name, t in (("cos", cos), ("sin", sin)):
        if t.dtype is not torch.float32:
            raise TypeError(f"rotary_embedding: {name} is {t.dtype}; needed: float32 (16 bits blur large angles)")
        if t.device != q.device:
            raise ValueError(f"rotary_embedding: {name} is on {t.device} but q is on {q.device}")
        need_no_grad("rotary_embedding", name, t)
    if not _fit(q, k, cos, sin):
        raise ValueError(
            f"rotary_embedding: q is {tuple(q.shape)}, k {tuple(k.shape)}, cos {tuple(cos.shape)}, sin "
            f"{tuple(sin.shape)}; needed: q and k (batch, heads, length, head_dim) that differ only in heads, head_dim "
            "even, cos and sin (length, head_dim) or (batch, length, head_dim)"
        )
    batch, q_heads, length, head_dim = q.shape
    k_heads = k.shape[1]
    if head_dim and not q.stride(3) == k.stride(3) == 1:
        raise ValueError("rotary_embedding: q and k need a last stride of 1")
    # In memory positions come before heads: the order in which a projection reads them.
    q_out, k_out = (
        t.new_empty_strided(t.shape, (length * heads * head_dim, head_dim, heads * head_dim, 1))
        for t, heads in ((q, q_heads), (k, k_heads))
    )
    if q.numel() or k.numel():
        cos, sin = cos.contiguous(), sin.contiguous()
        tile = tiles.rotary_embedding(batch, length, q_heads, k_heads, head_dim)
        rotary_embedding_kernel[(triton.cdiv(length, tile["BLOCK_L"]) * batch,)](
            q_out,
            k_out,
            q,
            k,
            cos,
            sin,
            length,
            *q.stride()[:3],
            *k.stride()[:3],
            length * head_dim if cos.dim() == 3 else 0,
            head_dim,
            q_heads,
            k_heads,
            head_dim // 2,
            **tile,
        )
    return q_out, k_out


def _fit(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    if q.dim() != 4 or k.dim() != 4:
        return False
    batch, _, length, head_dim = q.shape
    return (
        k.shape == (batch, k.shape[1], length, head_dim)
        and head_dim % 2 == 0
        and cos.shape == sin.shape
        and cos.shape in ((length, head_dim), (batch, length, head_dim))
    )
