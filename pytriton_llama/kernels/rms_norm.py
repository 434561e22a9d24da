"""Root-mean-square norm of rows, as Llama has it, alone or together with the residual addition before it.

    y[m, n] = weight[n] · x[m, n] / sqrt(meanⱼ x[m, j]² + eps)        x, y: (M, N)   weight: (N,)

A row that fits into one block is read once; a longer one twice, the second time mostly out of the cache. The sum of
squares is float32. The normalised value is rounded to x's dtype *before* it meets the weight: that is the
order in Hugging Face's Llama, and in 16 bits the other order gives other logits.

Zhang and Sennrich, "Root mean square layer normalization", 2019 (arXiv:1910.07467).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import as_rows, check, need


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
    residual_row_stride,
    eps,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Row numbers are 64-bit before they meet a stride: rows × stride can pass 2³¹.
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_m[:, None] < M) & (offs_n[None, :] < N)
    y_offs = offs_m[:, None] * N + offs_n[None, :]
    # Zeros past the end of a row add nothing to its sum of squares.
    x = tl.load(x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :], mask=mask, other=0.0)
    if residual_ptr is not None:
        residual_ptrs = residual_ptr + offs_m[:, None] * residual_row_stride + offs_n[None, :]
        residual = tl.load(residual_ptrs, mask=mask, other=0.0)
        # The sum is rounded first: the next layer's residual and this norm see the same numbers.
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x_ptr.dtype.element_ty)
        tl.store(sum_ptr + y_offs, x, mask=mask)
    x = x.to(tl.float32)
    # Squares of 16-bit values overflow fp16 beyond 255; in fp32 they don't.
    normed = x * tl.rsqrt(tl.sum(x * x, axis=1) / N + eps)[:, None]
    weight = tl.load(weight_ptr + offs_n, mask=offs_n < N, other=0.0).to(tl.float32)
    normed = normed.to(y_ptr.dtype.element_ty).to(tl.float32)
    tl.store(y_ptr + y_offs, (normed * weight[None, :]).to(y_ptr.dtype.element_ty), mask=mask)


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
    residual_row_stride,
    eps,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask_m = offs_m[:, None] < M
    x_rows = x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :]
    # One sum a column of the block: adding them up across threads can wait for the end of the row.
    squares = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start_n in range(0, N, BLOCK_N):
        mask = mask_m & (start_n + offs_n[None, :] < N)
        # This row is read once more: let the cache keep it, and drop what will not come back.
        x = tl.load(x_rows + start_n, mask=mask, other=0.0, eviction_policy="evict_last")
        if residual_ptr is not None:
            residual_ptrs = residual_ptr + offs_m[:, None] * residual_row_stride + start_n + offs_n[None, :]
            residual = tl.load(residual_ptrs, mask=mask, other=0.0, eviction_policy="evict_last")
            x = (x.to(tl.float32) + residual.to(tl.float32)).to(x_ptr.dtype.element_ty)
        squares += x.to(tl.float32) * x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(squares, axis=1) / N + eps)
    for start_n in range(0, N, BLOCK_N):
        mask = mask_m & (start_n + offs_n[None, :] < N)
        y_offs = offs_m[:, None] * N + start_n + offs_n[None, :]
        x = tl.load(x_rows + start_n, mask=mask, other=0.0, eviction_policy="evict_first")
        if residual_ptr is not None:
            residual_ptrs = residual_ptr + offs_m[:, None] * residual_row_stride + start_n + offs_n[None, :]
            residual = tl.load(residual_ptrs, mask=mask, other=0.0, eviction_policy="evict_first")
            x = (x.to(tl.float32) + residual.to(tl.float32)).to(x_ptr.dtype.element_ty)
            tl.store(sum_ptr + y_offs, x, mask=mask)
        weight = tl.load(weight_ptr + start_n + offs_n, mask=start_n + offs_n < N, other=0.0).to(tl.float32)
        normed = (x.to(tl.float32) * scale[:, None]).to(y_ptr.dtype.element_ty).to(tl.float32)
        tl.store(y_ptr + y_offs, (normed * weight[None, :]).to(y_ptr.dtype.element_ty), mask=mask)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """RMS norm over the last dimension; forward only.

    Args:
        x: (..., N), any strides.
        weight: (N,), of x's dtype.
        eps: added to the mean square.

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError, ValueError: shapes that do not fit, and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    return _launch("rms_norm", x, None, weight, eps)[0]


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(rms_norm(x + residual), x + residual)`` in one pass over memory; forward only.

    Args and errors as :func:`rms_norm`; ``residual`` has x's shape and dtype.
    """
    need(
        x.shape == residual.shape,
        f"add_rms_norm: x is {tuple(x.shape)} but residual is {tuple(residual.shape)}; they must agree",
    )
    return _launch("add_rms_norm", x, residual, weight, eps)


def _launch(op, x, residual, weight, eps):
    check(op, x=x, residual=residual, weight=weight)
    need(x.dim() >= 1, f"{op}: x has no dimension to normalise over")
    N = x.shape[-1]
    need(weight.shape == (N,), f"{op}: weight is {tuple(weight.shape)}; needed: ({N},), x's last dimension")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = None if residual is None else torch.empty_like(y)
    if x.numel():
        x_rows = as_rows(x)
        residual_rows = None if residual is None else as_rows(residual)
        kernel = rms_norm_kernel if N <= tiles.MAX_ROW_BLOCK else long_rms_norm_kernel
        tile = tiles.rows(*x_rows.shape)
        kernel[(triton.cdiv(x_rows.shape[0], tile["BLOCK_M"]),)](
            y,
            total,
            x_rows,
            residual_rows,
            weight.contiguous(),
            *x_rows.shape,
            x_rows.stride(0),
            0 if residual_rows is None else residual_rows.stride(0),
            eps,
            **tile,
        )
    return y, total
