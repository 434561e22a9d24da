"""A matrix product with everything that follows it done before the result leaves the registers.

    y = dropout(activation(x · weightᵀ + bias)) + residual

    x: (M, K)   weight: (N, K)   bias: (N,)   residual, y: (M, N)

One program makes one BLOCK_M × BLOCK_N tile of y. It walks along K and adds up products of tiles in float32; bias,
activation, dropout and residual are applied to the sum, which is rounded once. ``linear`` is the form without
dropout; :mod:`pytriton_llama.kernels.fused_ffn` has the other.
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import as_rows, check, need

ACTIVATIONS = (None, "gelu_tanh", "silu")


@triton.jit
def grouped_tile(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Which tile (pid_m, pid_n) of y this program makes.

    Programs that run at the same time share rows of x and of weight in the L2 cache if their tiles form a block, not
    a line: walk down GROUP_M tiles, then one to the right.
    """
    pid = tl.program_id(0)
    num_pid_m = tl.cdiv(M, BLOCK_M)
    num_pid_n = tl.cdiv(N, BLOCK_N)
    group = pid // (GROUP_M * num_pid_n)
    first_m = group * GROUP_M
    # The last group may be shorter.
    rows = tl.minimum(num_pid_m - first_m, GROUP_M)
    within = pid - group * GROUP_M * num_pid_n
    return first_m + within % rows, within // rows


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        x = x * tl.sigmoid(x)
    if ACTIVATION == "gelu_tanh":
        # 0.5 · x · (1 + tanh z) = x · sigmoid(2z), with z = sqrt(2/π) · (x + 0.044715 x³).
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return x


@triton.jit
def linear_kernel(
    y_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    M,
    N,
    K,
    x_row_stride,
    weight_row_stride,
    weight_col_stride,
    residual_row_stride,
    dropout_p,
    seed,
    ACTIVATION: tl.constexpr,
    DROPOUT: tl.constexpr,
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
    x_ptrs = x_ptr + offs_m[:, None] * x_row_stride + offs_k[None, :]
    # Both tiles are read as they lie in memory, K along the row; the dot takes the weight's transposed.
    weight_ptrs = weight_ptr + offs_n[:, None] * weight_row_stride + offs_k[None, :] * weight_col_stride
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start_k in range(0, K, BLOCK_K):
        if EVEN_K:
            x = tl.load(x_ptrs, mask=mask_m, other=0.0)
            weight = tl.load(weight_ptrs, mask=offs_n[:, None] < N, other=0.0)
        else:
            # Both sides need zeros past K: 0 · NaN, from whatever lies there, would be NaN.
            mask_k = start_k + offs_k[None, :] < K
            x = tl.load(x_ptrs, mask=mask_m & mask_k, other=0.0)
            weight = tl.load(weight_ptrs, mask=(offs_n[:, None] < N) & mask_k, other=0.0)
        # "ieee": float32 inputs are multiplied in full, not as TF32; 16-bit inputs are not affected.
        acc = tl.dot(x, tl.trans(weight), acc, input_precision="ieee")
        x_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K * weight_col_stride
    mask_n = offs_n[None, :] < N
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n[None, :], mask=mask_n, other=0.0).to(tl.float32)
    acc = activate(acc, ACTIVATION)
    y_offs = offs_m[:, None] * N + offs_n[None, :]
    mask = mask_m & mask_n
    if DROPOUT:
        # Philox makes the random number of an element from (seed, index) alone: any tiling drops the same ones.
        kept = tl.rand(seed, y_offs) >= dropout_p
        acc = tl.where(kept, acc / (1.0 - dropout_p), 0.0)
    if residual_ptr is not None:
        residual_ptrs = residual_ptr + offs_m[:, None] * residual_row_stride + offs_n[None, :]
        acc += tl.load(residual_ptrs, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + y_offs, acc.to(y_ptr.dtype.element_ty), mask=mask)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """``activation(x @ weight.T + bias) + residual`` in one kernel; forward only.

    Args:
        x: (..., K), any strides.
        weight: (N, K), any strides.
        bias: (N,).
        activation: None, "gelu_tanh" or "silu".
        residual: (..., N), of the result's shape.

    Returns:
        A new contiguous (..., N) tensor of x's dtype. Sums are float32; float32 inputs are multiplied as such
        (no TF32).

    Raises:
        TypeError, ValueError: shapes that do not fit, an unknown activation, and
            :func:`~pytriton_llama.kernels.arguments.check`.
    """
    return launch_linear("linear", x, weight, bias, activation, residual)


def launch_linear(op, x, weight, bias, activation, residual, dropout_p=0.0, seed=0):
    """Check, allocate, launch :func:`linear_kernel`; ``weight`` is (N, K) by its strides."""
    check(op, x=x, weight=weight, bias=bias, residual=residual)
    need(x.dim() >= 1 and weight.dim() == 2, f"{op}: x is {tuple(x.shape)}, weight {tuple(weight.shape)}")
    N, K = weight.shape
    need(x.shape[-1] == K, f"{op}: x is {tuple(x.shape)}; its last dimension must be {K} for this weight")
    need(
        bias is None or bias.shape == (N,),
        f"{op}: bias is {tuple(bias.shape) if bias is not None else None}; needed: ({N},)",
    )
    need(activation in ACTIVATIONS, f"{op}: activation is {activation!r}; known: {ACTIVATIONS}")
    y = torch.empty((*x.shape[:-1], N), dtype=x.dtype, device=x.device)
    if residual is not None:
        need(
            residual.shape == y.shape,
            f"{op}: residual is {tuple(residual.shape)}; needed: {tuple(y.shape)}, the result's shape",
        )
    if y.numel():
        M = y.numel() // N
        x_rows = as_rows(x) if K else x.reshape(M, 0)
        residual_rows = None if residual is None else as_rows(residual)
        tile = tiles.linear(M, N, K, x.dtype, dropout=dropout_p > 0)
        linear_kernel[(triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"]),)](
            y,
            x_rows,
            weight,
            None if bias is None else bias.contiguous(),
            residual_rows,
            M,
            N,
            K,
            x_rows.stride(0),
            *weight.stride(),
            0 if residual_rows is None else residual_rows.stride(0),
            dropout_p,
            seed,
            ACTIVATION=activation,
            DROPOUT=dropout_p > 0,
            EVEN_K=K % tile["BLOCK_K"] == 0,
            **tile,
        )
    return y
