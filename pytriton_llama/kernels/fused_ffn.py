"""The feed-forward first halves that are worth a kernel of their own.

    silu_mul:   y = silu(gate) · up                                           gate, up: (M, N)
    swiglu:     y = silu(x · gate_weightᵀ) · (x · up_weightᵀ)                 Llama's; both weights (N, K)
    fused_ffn:  y = dropout(activation(x · weight + bias)) + residual         GPT's; weight (K, N)

    x: (M, K)   y: (M, N)

``silu_mul`` is what is left to do after two plain products. ``swiglu`` makes the products too: with two accumulators,
a tile of x is loaded once for both, and neither goes through memory. ``fused_ffn`` is
:func:`~pytriton_llama.kernels.linear.linear_kernel` with its dropout turned on.

Shazeer, "GLU variants improve transformer", 2020 (arXiv:2002.05202); Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", 2011 (Philox).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import as_rows, check, empty_rows_like, for_rows, need
from pytriton_llama.kernels.linear import grouped_tile, launch_linear


@triton.jit
def silu_mul_kernel(
    y_ptr,
    gate_ptr,
    up_ptr,
    M,
    N,
    gate_row_stride,
    gate_col_stride,
    up_row_stride,
    up_col_stride,
    FLAT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # 64-bit before they meet a stride: a single row may have more than 2³¹ elements.
    if FLAT:  # one row, however long: which block is whose needs no division
        offs_m = tl.arange(0, BLOCK_M)
        offs_n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    else:
        num_pid_n = tl.cdiv(N, BLOCK_N)
        offs_m = (tl.program_id(0) // num_pid_n).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
        offs_n = (tl.program_id(0) % num_pid_n).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (offs_m[:, None] < M) & (offs_n[None, :] < N)
    gate_ptrs = gate_ptr + offs_m[:, None] * gate_row_stride + offs_n[None, :] * gate_col_stride
    gate = tl.load(gate_ptrs, mask=mask, other=0.0).to(tl.float32)
    up_ptrs = up_ptr + offs_m[:, None] * up_row_stride + offs_n[None, :] * up_col_stride
    up = tl.load(up_ptrs, mask=mask, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(y_ptr + offs_m[:, None] * N + offs_n[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up``; forward only.

    Args:
        gate, up: (..., N) of one shape, any strides.

    Returns:
        A new tensor of that shape, whose rows lie in memory in the order of gate's; computed in float32 and rounded
        once.

    Raises:
        TypeError, ValueError: shapes that differ, and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    check("silu_mul", gate=gate, up=up)
    if gate.shape != up.shape or gate.dim() == 0:
        raise ValueError(
            f"silu_mul: gate is {tuple(gate.shape)} but up is {tuple(up.shape)}; they must agree, with one dimension "
            "at least"
        )
    y = empty_rows_like(gate)
    if y.numel():
        for_rows(_launch_silu_mul, (y,), (gate, up))
    return y


def _launch_silu_mul(M, N, strides, outputs, inputs):
    if all(t.is_contiguous() for t in (*outputs, *inputs)):
        M, N = 1, M * N  # no sum ends with a row here: one long row starts aligned wherever the tensor does
    tile = tiles.elementwise(M, N)
    grid = (-(-M // tile["BLOCK_M"]) * -(-N // tile["BLOCK_N"]),)
    silu_mul_kernel[grid](*outputs, *inputs, M, N, *strides, FLAT=M == 1, **tile)


@triton.jit
def swiglu_kernel(
    y_ptr,
    x_ptr,
    gate_ptr,
    up_ptr,
    M,
    N,
    K,
    x_row_stride,
    gate_row_stride,
    gate_col_stride,
    up_row_stride,
    up_col_stride,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    pid_m, pid_n = grouped_tile(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    # 64-bit before they meet a stride: rows × stride can pass 2³¹.
    offs_m = pid_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    mask_m = offs_m[:, None] < M
    mask_n = offs_n[:, None] < N
    x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs_k[None, :]
    # All tiles are read as they lie in memory, K along the row; the dots take the weights' transposed.
    gate_ptrs = gate_ptr + offs_n[:, None] * gate_row_stride + offs_k[None, :] * gate_col_stride
    up_ptrs = up_ptr + offs_n[:, None] * up_row_stride + offs_k[None, :] * up_col_stride
    gate_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start_k in range(0, K, BLOCK_K):
        x_mask = mask_m
        weight_mask = mask_n
        if not EVEN_K:
            # Both sides need zeros past K: 0 · NaN, from whatever lies there, would be NaN.
            x_mask = x_mask & (start_k + offs_k[None, :] < K)
            weight_mask = weight_mask & (start_k + offs_k[None, :] < K)
        x = tl.load(x_ptrs, mask=x_mask, other=0.0)
        gate = tl.load(gate_ptrs, mask=weight_mask, other=0.0)
        gate_acc = tl.dot(x, tl.trans(gate), gate_acc, input_precision="ieee")
        up = tl.load(up_ptrs, mask=weight_mask, other=0.0)
        up_acc = tl.dot(x, tl.trans(up), up_acc, input_precision="ieee")
        x_ptrs += BLOCK_K
        gate_ptrs += BLOCK_K * gate_col_stride
        up_ptrs += BLOCK_K * up_col_stride
    y = gate_acc * tl.sigmoid(gate_acc) * up_acc
    y_ptrs = y_ptr + offs_m[:, None] * N + offs_n[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask_m & (offs_n[None, :] < N))


def swiglu(x: torch.Tensor, gate_weight: torch.Tensor, up_weight: torch.Tensor) -> torch.Tensor:
    """``silu(x @ gate_weight.T) * (x @ up_weight.T)`` in one kernel; forward only.

    Args:
        x: (..., K), any strides.
        gate_weight, up_weight: (N, K), any strides.

    Returns:
        A new contiguous (..., N) tensor of x's dtype; computed in float32 and rounded once.

    Raises:
        TypeError, ValueError: shapes that do not fit, and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    check("swiglu", x=x, gate_weight=gate_weight, up_weight=up_weight)
    need(
        gate_weight.dim() == 2 and gate_weight.shape == up_weight.shape,
        f"swiglu: gate_weight is {tuple(gate_weight.shape)}, up_weight {tuple(up_weight.shape)}; needed: equal (N, K)",
    )
    N, K = gate_weight.shape
    need(x.dim() >= 1 and x.shape[-1] == K, f"swiglu: x is {tuple(x.shape)}; its last dimension must be {K}")
    y = torch.empty((*x.shape[:-1], N), dtype=x.dtype, device=x.device)
    if y.numel():
        M = y.numel() // N
        x_rows = as_rows(x) if K else x.reshape(M, 0)
        tile = tiles.swiglu(M, N, K, x.dtype)
        swiglu_kernel[(triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"]),)](
            y,
            x_rows,
            gate_weight,
            up_weight,
            M,
            N,
            K,
            x_rows.stride(0),
            *gate_weight.stride(),
            *up_weight.stride(),
            EVEN_K=K % tile["BLOCK_K"] == 0,
            **tile,
        )
    return y


def fused_ffn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str | None = "gelu_tanh",
    dropout_p: float = 0.0,
    seed: int = 0,
) -> torch.Tensor:
    """``dropout(activation(x @ weight + bias)) + residual`` in one kernel; forward only.

    Args:
        x: (..., K), any strides.
        weight: (K, N), the transpose of ``linear``'s.
        bias: (N,).
        residual: (..., N).
        activation: None, "gelu_tanh" or "silu".
        dropout_p: the share of elements set to 0, in [0, 1); the others are divided by 1 − dropout_p.
        seed: which elements those are. The same seed drops the same elements, on any device and with any tile.

    Returns:
        A new contiguous (..., N) tensor of x's dtype.

    Raises:
        TypeError, ValueError: as :func:`~pytriton_llama.kernels.linear.linear`; ``dropout_p`` outside [0, 1).
    """
    need(0 <= dropout_p < 1, f"fused_ffn: dropout_p is {dropout_p}; needed: 0 ≤ dropout_p < 1")
    need(weight.dim() == 2, f"fused_ffn: weight is {tuple(weight.shape)}; needed: (K, N)")
    return launch_linear("fused_ffn", x, weight.t(), bias, activation, residual, dropout_p, seed)
