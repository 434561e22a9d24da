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
from pytriton_llama.kernels.arguments import check


@triton.jit
def rotate_heads(
    out_ptr,
    x_ptr,
    out_head_stride,
    out_row_stride,
    x_head_stride,
    x_row_stride,
    offs_l,
    mask_l,
    cos_low,
    sin_low,
    cos_high,
    sin_high,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    offs_h = tl.arange(0, BLOCK_H)[:, None, None]
    offs_d = tl.arange(0, BLOCK_HALF)[None, None, :]
    # Heads and halves are padded to powers of two: three conditions, one per axis of the (heads, positions, D/2) tile.
    mask = (offs_h < HEADS) & mask_l[None, :, None] & (offs_d < HALF)
    x_ptrs = x_ptr + offs_h * x_head_stride + offs_l[None, :, None] * x_row_stride + offs_d
    low = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    high = tl.load(x_ptrs + HALF, mask=mask, other=0.0).to(tl.float32)
    out_ptrs = out_ptr + offs_h * out_head_stride + offs_l[None, :, None] * out_row_stride + offs_d
    turned_low = low * cos_low[None, :, :] - high * sin_low[None, :, :]
    turned_high = high * cos_high[None, :, :] + low * sin_high[None, :, :]
    tl.store(out_ptrs, turned_low.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptrs + HALF, turned_high.to(out_ptr.dtype.element_ty), mask=mask)


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
    # 64-bit before they meet a stride: a long batch passes 2³¹ elements.
    batch = tl.program_id(1).to(tl.int64)
    offs_l = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    offs_d = tl.arange(0, BLOCK_HALF)
    mask_l = offs_l < length
    mask = mask_l[:, None] & (offs_d[None, :] < HALF)
    angle_offs = batch * cos_batch_stride + offs_l[:, None] * cos_row_stride + offs_d[None, :]
    cos_low = tl.load(cos_ptr + angle_offs, mask=mask, other=0.0)
    sin_low = tl.load(sin_ptr + angle_offs, mask=mask, other=0.0)
    # The tables repeat themselves in the second half; read as given, a caller may pass any rotation.
    cos_high = tl.load(cos_ptr + angle_offs + HALF, mask=mask, other=0.0)
    sin_high = tl.load(sin_ptr + angle_offs + HALF, mask=mask, other=0.0)
    # Results are laid out as (batch, length, heads, D): the order in which the next projections read them.
    q_out_row = Q_HEADS * HALF * 2
    k_out_row = K_HEADS * HALF * 2
    rotate_heads(
        q_out_ptr + batch * length * q_out_row, q_ptr + batch * q_batch_stride, HALF * 2, q_out_row,
        q_head_stride, q_row_stride, offs_l, mask_l, cos_low, sin_low, cos_high, sin_high,
        Q_HEADS, HALF, BLOCK_Q, BLOCK_HALF,
    )  # fmt: skip
    rotate_heads(
        k_out_ptr + batch * length * k_out_row, k_ptr + batch * k_batch_stride, HALF * 2, k_out_row,
        k_head_stride, k_row_stride, offs_l, mask_l, cos_low, sin_low, cos_high, sin_high,
        K_HEADS, HALF, BLOCK_K, BLOCK_HALF,
    )  # fmt: skip


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
    check("rotary_embedding", cos=cos, sin=sin)
    if not _fit(q, k, cos, sin):
        raise ValueError(
            f"rotary_embedding: q is {tuple(q.shape)}, k {tuple(k.shape)}, cos {tuple(cos.shape)}, sin "
            f"{tuple(sin.shape)}; needed: q and k (batch, heads, length, head_dim) that differ only in heads, head_dim "
            "even, cos and sin (length, head_dim) or (batch, length, head_dim)"
        )
    if cos.dtype != torch.float32:
        raise TypeError(f"rotary_embedding: cos and sin are {cos.dtype}; needed: float32 (16 bits blur large angles)")
    if cos.device != q.device:
        raise ValueError(f"rotary_embedding: cos is on {cos.device} but q is on {q.device}")
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
        tile = tiles.rotary_embedding(length, q_heads, k_heads, head_dim)
        rotary_embedding_kernel[(-(-length // tile["BLOCK_L"]), batch)](
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
