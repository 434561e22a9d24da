"""Softmax of rows.

    y[m, n] = exp(x[m, n] − max x[m, :]) / Σⱼ exp(x[m, j] − max x[m, :])        x, y: (M, N)

A row that fits into one block is read once and written once. A longer row is walked in blocks, twice: first the
maximum and the sum are gathered together, the sum being rescaled whenever the maximum grows, then the row, by then in
the cache, is read again to be normalised.

Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018 (arXiv:1805.02867).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, empty_rows_like, for_rows

# exp(x) = 2^(x · log₂e): powers of two are what the hardware has an instruction for.
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def softmax_kernel(
    y_ptr,
    x_ptr,
    M,
    N,
    x_row_stride,
    x_col_stride,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # ALIGN divides both, so this changes nothing; but now the compiler knows, and loads 16 bytes at once.
    N, x_row_stride = N // ALIGN * ALIGN, x_row_stride // ALIGN * ALIGN
    # 64-bit before they meet a stride: rows × stride can pass 2³¹.
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_m[:, None] < M) & (offs_n[None, :] < N)
    x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :].to(tl.int64) * x_col_stride
    # exp(−inf) = 0: what lies past the end of a row adds nothing to its sum, and never is its maximum.
    x = tl.load(x_ptrs, mask=mask, other=float("-inf")).to(tl.float32)
    # With the row's own maximum taken off, the largest exponent is 0 and exp cannot overflow.
    numerator = tl.exp2((x - tl.max(x, axis=1)[:, None]) * LOG2_E)
    # One division a row, not one an element.
    y = numerator * (1.0 / tl.sum(numerator, axis=1))[:, None]
    tl.store(y_ptr + offs_m[:, None] * N + offs_n[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def online_softmax_kernel(
    y_ptr,
    x_ptr,
    M,
    N,
    x_row_stride,
    x_col_stride,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    N, x_row_stride = N // ALIGN * ALIGN, x_row_stride // ALIGN * ALIGN
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
        x_ptrs = x_rows + (start_n + offs_n[None, :]).to(tl.int64) * x_col_stride
        x = tl.load(x_ptrs, mask=mask, other=float("-inf"), eviction_policy="evict_last").to(tl.float32)
        new_max = tl.maximum(row_max, tl.max(x, axis=1))
        # While a row has shown only −inf there is nothing to shift by; −inf − (−inf) would be NaN for good.
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        numerator = tl.exp2((x - shift[:, None]) * LOG2_E)
        row_sum = row_sum * tl.exp2((row_max - shift) * LOG2_E) + tl.sum(numerator, axis=1)
        row_max = new_max
    scale = 1.0 / row_sum
    for start_n in range(0, N, BLOCK_N):
        mask = mask_m & (start_n + offs_n[None, :] < N)
        x_ptrs = x_rows + (start_n + offs_n[None, :]).to(tl.int64) * x_col_stride
        x = tl.load(x_ptrs, mask=mask, other=float("-inf"), eviction_policy="evict_first").to(tl.float32)
        y = tl.exp2((x - row_max[:, None]) * LOG2_E) * scale[:, None]
        y_ptrs = y_ptr + offs_m[:, None] * N + start_n + offs_n[None, :]
        # ".cs", streaming: results are not read here again, and leave the cache to the rows.
        tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask, cache_modifier=".cs")


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
    dims = x.dim()
    if dims == 0:
        return softmax(x.reshape(1), dim).reshape(())
    if not -dims <= dim < dims:
        raise ValueError(f"softmax: dim is {dim}, but x has {dims} dimensions")
    last = dim in (-1, dims - 1)
    moved = x if last else x.movedim(dim, -1)
    y = empty_rows_like(moved)
    if x.numel():
        for_rows(_launch, (y,), (moved,))
    return y if last else y.movedim(-1, dim)


def _launch(M, N, strides, outputs, inputs):
    grid, tile = tiles.rows("softmax", M, N, strides, inputs[0])
    kernel = softmax_kernel if tile["BLOCK_N"] >= N else online_softmax_kernel
    kernel[grid](*outputs, *inputs, M, N, *strides, **tile)
