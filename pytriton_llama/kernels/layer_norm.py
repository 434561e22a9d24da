"""Layer norm of rows.

    mean[m] = meanⱼ x[m, j]      var[m] = meanⱼ (x[m, j] − mean[m])²        x, y: (M, N)   weight, bias: (N,)
    y[m, n] = (x[m, n] − mean[m]) / sqrt(var[m] + eps) · weight[n] + bias[n]

The row stays in registers, so the variance is taken in a second pass over what is already there: E[x²] − E[x]² would
save nothing, and subtracts two nearly equal numbers when the mean is large.

Ba, Kiros and Hinton, "Layer normalization", 2016 (arXiv:1607.06450).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import as_rows, check, need


@triton.jit
def layer_norm_kernel(
    y_ptr, x_ptr, weight_ptr, bias_ptr, M, N, x_row_stride, eps, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    # Row numbers are 64-bit before they meet a stride: rows × stride can pass 2³¹.
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    mask_n = offs_n < N
    mask = (offs_m[:, None] < M) & mask_n[None, :]
    x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs_n[None, :]
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1) / N
    # Past the end of a row the difference would be −mean, not 0, and would count as variance.
    centred = tl.where(mask_n[None, :], x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / N
    weight = tl.load(weight_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)
    y = centred * tl.rsqrt(variance + eps)[:, None] * weight[None, :] + bias[None, :]
    tl.store(y_ptr + offs_m[:, None] * N + offs_n[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Layer norm over the last dimension; forward only.

    Args:
        x: (..., N), any strides.
        weight, bias: (N,), of x's dtype.
        eps: added to the variance.

    Returns:
        A new contiguous tensor of x's shape and dtype; computed in float32 and rounded once.

    Raises:
        TypeError, ValueError: shapes that do not fit, N > 65536, and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    check("layer_norm", x=x, weight=weight, bias=bias)
    need(x.dim() >= 1, "layer_norm: x has no dimension to normalise over")
    N = x.shape[-1]
    for name, t in (("weight", weight), ("bias", bias)):
        need(t.shape == (N,), f"layer_norm: {name} is {tuple(t.shape)}; needed: ({N},), x's last dimension")
    need(
        N <= tiles.MAX_ROW_BLOCK,
        f"layer_norm: rows of {N} are longer than the {tiles.MAX_ROW_BLOCK} one program holds",
    )
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        x_rows = as_rows(x)
        M = x_rows.shape[0]
        tile = tiles.rows(M, N)
        layer_norm_kernel[(triton.cdiv(M, tile["BLOCK_M"]),)](
            y, x_rows, weight.contiguous(), bias.contiguous(), M, N, x_rows.stride(0), eps, **tile
        )
    return y
