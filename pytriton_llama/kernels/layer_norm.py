"""Layer norm of rows.

    mean[m] = meanⱼ x[m, j]      var[m] = meanⱼ (x[m, j] − mean[m])²        x, y: (M, N)   weight, bias: (N,)
    y[m, n] = (x[m, n] − mean[m]) / sqrt(var[m] + eps) · weight[n] + bias[n]

A row that fits into one block stays in registers, so the variance is taken in a second pass over what is already
there: E[x²] − E[x]² would save nothing, and subtracts two nearly equal numbers when the mean is large. A longer row is
read twice: first block by block, the blocks' means and sums of squared deviations S being merged two at a time,

    mean = meanₐ + δ · n_b / n      S = Sₐ + S_b + δ² · nₐ · n_b / n      with δ = mean_b − meanₐ, n = nₐ + n_b

and then, mostly out of the cache, to be normalised.

Ba, Kiros and Hinton, "Layer normalization", 2016 (arXiv:1607.06450); Chan, Golub and LeVeque, "Updating formulae and a
pairwise algorithm for computing sample variances", 1979.
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, empty_rows_like, for_rows


@triton.jit
def quotient(a, b):
    """a / b, and exactly that where it is a float32: a GPU's `/` may be wrong in its last digit.

    What such a q leaves over is known exactly, from one fma, and is shared out in turn. `tl.div_rn` would round to
    nearest as well, but it calls a function for rare operands, for which a row of 16384 has no registers left. Of an
    infinite a it makes NaN, as all of such a row is.
    """
    q = a / b
    return q + tl.fma(-q, b, a) / b


@triton.jit
def layer_norm_kernel(
    y_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    M,
    N,
    x_row_stride,
    x_col_stride,
    eps,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # ALIGN divides both, so this changes nothing; but now the compiler knows, and loads 16 bytes at once.
    N, x_row_stride = N // ALIGN * ALIGN, x_row_stride // ALIGN * ALIGN
    # 64-bit before they meet a stride: rows × stride can pass 2³¹.
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask_n = offs_n < N
    mask = (offs_m[:, None] < M) & mask_n[None, :]
    x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :].to(tl.int64) * x_col_stride
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    # A short row leaves registers to spare: weight and bias are asked for now, to arrive while it is being summed.
    if BLOCK_N <= 4096:
        weight = tl.load(weight_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
        bias = tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    # Equal numbers deviate by 0 from it, if their sum is exact; rsqrt(eps) would enlarge anything else.
    mean = quotient(tl.sum(x, axis=1), N)
    # Past the end of a row the difference would be −mean, not 0, and would count as variance.
    centred = tl.where(mask_n[None, :], x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / N
    if BLOCK_N > 4096:
        weight = tl.load(weight_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
        bias = tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    # Widened only here: until then 16-bit values wait in half as many registers.
    y = centred * tl.rsqrt(variance + eps)[:, None] * weight.to(tl.float32) + bias.to(tl.float32)
    tl.store(y_ptr + offs_m[:, None] * N + offs_n[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def long_layer_norm_kernel(
    y_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    M,
    N,
    x_row_stride,
    x_col_stride,
    eps,
    ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    N, x_row_stride = N // ALIGN * ALIGN, x_row_stride // ALIGN * ALIGN
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask_m = offs_m[:, None] < M
    x_rows = x_ptr + offs_m[:, None] * x_row_stride
    mean = tl.zeros((BLOCK_M,), tl.float32)
    deviations = tl.zeros((BLOCK_M,), tl.float32)
    for start_n in range(0, N, BLOCK_N):
        inside = start_n + offs_n[None, :] < N
        # This row is read once more: let the cache keep it.
        x_ptrs = x_rows + (start_n + offs_n[None, :]).to(tl.int64) * x_col_stride
        x = tl.load(x_ptrs, mask=mask_m & inside, other=0.0, eviction_policy="evict_last").to(tl.float32)
        count = tl.minimum(N - start_n, BLOCK_N)
        block_mean = quotient(tl.sum(x, axis=1), count)
        centred = tl.where(inside, x - block_mean[:, None], 0.0)
        delta = block_mean - mean
        share = quotient(count, start_n + count)  # 1 in the first block
        mean += delta * share
        # In floating point: start_n · count can pass 2³¹. And delta² alone may be inf: 0 · inf, in the first block.
        between = delta * (delta * start_n) * share
        deviations += tl.sum(centred * centred, axis=1) + between
    scale = tl.rsqrt(deviations / N + eps)
    for start_n in range(0, N, BLOCK_N):
        mask_n = start_n + offs_n < N
        mask = mask_m & mask_n[None, :]
        x_ptrs = x_rows + (start_n + offs_n[None, :]).to(tl.int64) * x_col_stride
        x = tl.load(x_ptrs, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
        # ".cg" keeps weight and bias out of the first-level cache, ".cs" the result out of the way of either: both
        # caches are left to the row.
        weight = tl.load(weight_ptr + start_n + offs_n, mask=mask_n, other=0.0, cache_modifier=".cg")[None, :]
        bias = tl.load(bias_ptr + start_n + offs_n, mask=mask_n, other=0.0, cache_modifier=".cg")[None, :]
        y = (x - mean[:, None]) * scale[:, None] * weight.to(tl.float32) + bias.to(tl.float32)
        y_ptrs = y_ptr + offs_m[:, None] * N + start_n + offs_n[None, :]
        tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask, cache_modifier=".cs")


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Layer norm over the last dimension; forward only.

    Args:
        x: (..., N), any strides.
        weight, bias: (N,), of x's dtype; strided ones are copied.
        eps: added to the variance.

    Returns:
        A new tensor of x's shape and dtype, whose rows lie in memory in the order of x's; computed in float32 and
        rounded once.

    Raises:
        TypeError, ValueError: shapes that do not fit, and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    check("layer_norm", x=x, weight=weight, bias=bias)
    if x.dim() == 0:
        raise ValueError("layer_norm: x has no dimension to normalise over")
    for name, t in (("weight", weight), ("bias", bias)):
        if t.shape != x.shape[-1:]:
            raise ValueError(f"layer_norm: {name} is {tuple(t.shape)}; needed: ({x.shape[-1]},), x's last dimension")
    weight, bias = weight.contiguous(), bias.contiguous()
    y = empty_rows_like(x)
    if x.numel():

        def launch(M, N, strides, outputs, inputs):
            grid, tile = tiles.rows("layer_norm", M, N, strides, x)
            kernel = layer_norm_kernel if tile["BLOCK_N"] >= N else long_layer_norm_kernel
            kernel[grid](*outputs, *inputs, weight, bias, M, N, *strides, eps, **tile)

        for_rows(launch, (y,), (x,))
    return y
