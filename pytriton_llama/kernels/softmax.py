"""Softmax of rows.

    y[m, n] = exp(x[m, n] − max x[m, :]) / Σⱼ exp(x[m, j] − max x[m, :])        x, y: (M, N)

A row that fits into one block is read once and written once. A longer row is read twice: first the maximum and the
sum are gathered in one pass, the sum being rescaled whenever the maximum grows, then the row is normalised.

Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018 (arXiv:1805.02867).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import as_rows, check, need


@triton.jit
def softmax_kernel(y_ptr, x_ptr, M, N, y_row_stride, x_row_stride, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    # Row numbers are 64-bit before they meet a stride: rows × stride can pass 2³¹.
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_m[:, None] < M) & (offs_n[None, :] < N)
    # exp(−inf) = 0: what lies past the end of a row adds nothing to its sum, and never is its maximum.
    x = tl.load(x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :], mask=mask, other=float("-inf"))
    x = x.to(tl.float32)
    # With the row's own maximum taken off, the largest exponent is 0 and exp cannot overflow.
    numerator = tl.exp(x - tl.max(x, axis=1)[:, None])
    y = numerator / tl.sum(numerator, axis=1)[:, None]
    tl.store(y_ptr + offs_m[:, None] * y_row_stride + offs_n[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def online_softmax_kernel(y_ptr, x_ptr, M, N, y_row_stride, x_row_stride, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask_m = offs_m[:, None] < M
    x_rows = x_ptr + offs_m[:, None] * x_row_stride
    # The maximum starts at −inf, not at 0: a row may be negative throughout.
    row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    for start_n in range(0, N, BLOCK_N):
        mask = mask_m & (start_n + offs_n[None, :] < N)
        # This row is read once more: let the cache keep it, and drop what will not come back.
        x_ptrs = x_rows + start_n + offs_n[None, :]
        x = tl.load(x_ptrs, mask=mask, other=float("-inf"), eviction_policy="evict_last").to(tl.float32)
        new_max = tl.maximum(row_max, tl.max(x, axis=1))
        # While a row has shown only −inf there is nothing to shift by; −inf − (−inf) would be NaN for good.
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        row_sum = row_sum * tl.exp(row_max - shift) + tl.sum(tl.exp(x - shift[:, None]), axis=1)
        row_max = new_max
    for start_n in range(0, N, BLOCK_N):
        mask = mask_m & (start_n + offs_n[None, :] < N)
        x_ptrs = x_rows + start_n + offs_n[None, :]
        x = tl.load(x_ptrs, mask=mask, other=float("-inf"), eviction_policy="evict_first").to(tl.float32)
        y = tl.exp(x - row_max[:, None]) / row_sum[:, None]
        y_ptrs = y_ptr + offs_m[:, None] * y_row_stride + start_n + offs_n[None, :]
        tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask)


def softmax(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Softmax along one dimension, as ``torch.softmax``; forward only.

    Args:
        x: any shape and strides; float32, float16 or bfloat16. Computed in float32.
        dim: the dimension that sums to 1.

    Returns:
        A new tensor of x's shape and dtype. A row that is −inf throughout gives NaN, as torch's does.

    Raises:
        TypeError, ValueError: see :func:`pytriton_llama.kernels.arguments.check`; no such ``dim``.
    """
    check("softmax", x=x)
    if x.dim() == 0:
        return softmax(x.reshape(1), dim).reshape(())
    need(-x.dim() <= dim < x.dim(), f"softmax: dim is {dim}, but x has {x.dim()} dimensions")
    moved = x.movedim(dim, -1)
    y = torch.empty(moved.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        x_rows, y_rows = as_rows(moved), y.view(-1, y.shape[-1])
        M, N = x_rows.shape
        kernel = softmax_kernel if N <= tiles.MAX_ROW_BLOCK else online_softmax_kernel
        tile = tiles.rows(M, N)
        grid = (triton.cdiv(M, tile["BLOCK_M"]),)
        kernel[grid](y_rows, x_rows, M, N, y_rows.stride(0), x_rows.stride(0), **tile)
    return y.movedim(-1, dim)
