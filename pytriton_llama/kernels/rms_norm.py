"""Root-mean-square norm of rows, as Llama has it, alone or together with the residual addition before it.

    y[m, n] = weight[n] · x[m, n] / sqrt(meanⱼ x[m, j]² + eps)        x, y: (M, N)   weight: (N,)

A row that fits into one block is read once; a longer one is walked in blocks, twice, the second time mostly out of the
cache. The sum of squares is float32. The normalised value is rounded to x's dtype *before* it meets the weight: that is
the order in Hugging Face's Llama, and in 16 bits the other order gives other logits.

Zhang and Sennrich, "Root mean square layer normalization", 2019 (arXiv:1910.07467).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, empty_rows_like, for_rows


@triton.jit
def rms_norm_kernel(
    y_ptr,
    sum_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    M,
    N,
    x_row_stride,
    x_col_stride,
    residual_row_stride,
    residual_col_stride,
    eps,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # ALIGN divides all three, so this changes nothing; but now the compiler knows, and loads 16 bytes at once.
    N, x_row_stride = N // ALIGN * ALIGN, x_row_stride // ALIGN * ALIGN
    residual_row_stride = residual_row_stride // ALIGN * ALIGN
    # 64-bit before they meet a stride: rows × stride can pass 2³¹.
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_m[:, None] < M) & (offs_n[None, :] < N)
    y_offs = offs_m[:, None] * N + offs_n[None, :]
    # Zeros past the end of a row add nothing to its sum of squares.
    x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :].to(tl.int64) * x_col_stride
    x = tl.load(x_ptrs, mask=mask, other=0.0)
    # Asked for already here, to arrive while the row is being summed; unless the row is loaded one element at a time,
    # which leaves no registers to keep it in.
    if ALIGN > 1:
        weight = tl.load(weight_ptr + offs_n, mask=offs_n < N, other=0.0)[None, :]
    if residual_ptr is not None:
        residual_offs = offs_m[:, None] * residual_row_stride + offs_n[None, :].to(tl.int64) * residual_col_stride
        residual = tl.load(residual_ptr + residual_offs, mask=mask, other=0.0)
        # The sum is rounded first: the next layer's residual and this norm see the same numbers.
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x_ptr.dtype.element_ty)
        tl.store(sum_ptr + y_offs, x, mask=mask)
    x = x.to(tl.float32)
    # Squares of 16-bit values overflow fp16 beyond 255; in fp32 they don't.
    normed = x * tl.rsqrt(tl.sum(x * x, axis=1) / N + eps)[:, None]
    # Rounded before it meets the weight, as Llama does.
    normed = normed.to(y_ptr.dtype.element_ty).to(tl.float32)
    if ALIGN == 1:
        weight = tl.load(weight_ptr + offs_n, mask=offs_n < N, other=0.0)[None, :]
    tl.store(y_ptr + y_offs, (normed * weight.to(tl.float32)).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def long_rms_norm_kernel(
    y_ptr,
    sum_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    M,
    N,
    x_row_stride,
    x_col_stride,
    residual_row_stride,
    residual_col_stride,
    eps,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    N, x_row_stride = N // ALIGN * ALIGN, x_row_stride // ALIGN * ALIGN
    residual_row_stride = residual_row_stride // ALIGN * ALIGN
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask_m = offs_m[:, None] < M
    y_rows = offs_m[:, None] * N + offs_n[None, :]
    squares = tl.zeros((BLOCK_M,), tl.float32)
    for start_n in range(0, N, BLOCK_N):
        mask = mask_m & (start_n + offs_n[None, :] < N)
        offs = (start_n + offs_n[None, :]).to(tl.int64)
        # This row is read once more: let the cache keep it.
        x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs * x_col_stride
        x = tl.load(x_ptrs, mask=mask, other=0.0, eviction_policy="evict_last")
        if residual_ptr is not None:
            residual_ptrs = residual_ptr + offs_m[:, None] * residual_row_stride + offs * residual_col_stride
            residual = tl.load(residual_ptrs, mask=mask, other=0.0, eviction_policy="evict_first")
            x = (x.to(tl.float32) + residual.to(tl.float32)).to(x_ptr.dtype.element_ty)
            tl.store(sum_ptr + y_rows + start_n, x, mask=mask)
        squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), axis=1)
    scale = tl.rsqrt(squares / N + eps)[:, None]
    # With a residual the row is now what this program's own threads have stored: wait for all of them.
    tl.debug_barrier()
    for start_n in range(0, N, BLOCK_N):
        mask_n = start_n + offs_n < N
        mask = mask_m & mask_n[None, :]
        if residual_ptr is not None:
            x_ptrs = sum_ptr + y_rows + start_n
        else:
            x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + (start_n + offs_n[None, :]).to(tl.int64) * x_col_stride
        x = tl.load(x_ptrs, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
        # ".cg" keeps the weight out of the first-level cache, ".cs" the result out of the way of either: both caches
        # are left to the row.
        weight = tl.load(weight_ptr + start_n + offs_n, mask=mask_n, other=0.0, cache_modifier=".cg")
        normed = (x * scale).to(y_ptr.dtype.element_ty).to(tl.float32)
        y = (normed * weight[None, :].to(tl.float32)).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + y_rows + start_n, y, mask=mask, cache_modifier=".cs")


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """RMS norm over the last dimension; forward only.

    Args:
        x: (..., N), any strides.
        weight: (N,), of x's dtype; a strided one is copied.
        eps: added to the mean square.

    Returns:
        A new tensor of x's shape and dtype, whose rows lie in memory in the order of x's.

    Raises:
        TypeError, ValueError: shapes that do not fit, and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    return _norm("rms_norm", x, None, weight, eps)[0]


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(rms_norm(x + residual), x + residual)`` in one pass over memory; forward only.

    Args and errors as :func:`rms_norm`; ``residual`` has x's shape and dtype.
    """
    if x.shape != residual.shape:
        raise ValueError(
            f"add_rms_norm: x is {tuple(x.shape)} but residual is {tuple(residual.shape)}; they must agree"
        )
    return _norm("add_rms_norm", x, residual, weight, eps)


def _norm(op, x, residual, weight, eps):
    check(op, x=x, residual=residual, weight=weight)
    if x.dim() == 0:
        raise ValueError(f"{op}: x has no dimension to normalise over")
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"{op}: weight is {tuple(weight.shape)}; needed: ({x.shape[-1]},), x's last dimension")
    weight = weight.contiguous()
    y = empty_rows_like(x)
    total = None if residual is None else empty_rows_like(x)
    if x.numel():

        def launch(M, N, strides, outputs, inputs):
            grid, tile = tiles.rows(op, M, N, strides, x)
            kernel = rms_norm_kernel if tile["BLOCK_N"] >= N else long_rms_norm_kernel
            if residual is None:  # what add_rms_norm has besides
                outputs, inputs, strides = (*outputs, None), (*inputs, None), (*strides, 0, 0)
            kernel[grid](*outputs, *inputs, weight, M, N, *strides, eps, **tile)

        for_rows(launch, (y,) if total is None else (y, total), (x,) if residual is None else (x, residual))
    return y, total
