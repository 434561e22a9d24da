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
from pytriton_llama.kernels.arguments import (
    check,
    describable,
    descriptor,
    empty_rows_like,
    for_rows,
    pair_descriptor,
    takes_tma,
)
from pytriton_llama.kernels.linear import finish, grouped_tile, launch_linear, load_tile, wait_for_previous_kernel


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
def multiply_two(
    x,
    gate,
    up,
    m,
    n,
    K,
    up_first,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The sums of x · gateᵀ and of x · upᵀ for one tile: x is read once for both."""
    if TMA:
        # One descriptor has both weights: a tile of each arrives as one, for one product twice as wide.
        weights = gate[0]
        acc = tl.zeros((BLOCK_M, 2 * BLOCK_N), tl.float32)
        for step in range(tl.cdiv(K, BLOCK_K)):
            k = step * BLOCK_K
            x_tile = load_tile(x, m, k, K, EVEN_K, TMA, False, BLOCK_M, BLOCK_K)
            tile = weights.load([0, n, k]).reshape(2 * BLOCK_N, BLOCK_K)
            acc = tl.dot(x_tile, tile.T, acc)
        first, second = acc.reshape(BLOCK_M, 2, BLOCK_N).permute(0, 2, 1).split()
        return tl.where(up_first != 0, second, first), tl.where(up_first != 0, first, second)
    else:
        gate_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        up_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for step in range(tl.cdiv(K, BLOCK_K)):
            k = step * BLOCK_K
            x_tile = load_tile(x, m, k, K, EVEN_K, TMA, False, BLOCK_M, BLOCK_K)
            gate_tile = load_tile(gate, n, k, K, EVEN_K, TMA, False, BLOCK_N, BLOCK_K)
            gate_acc = tl.dot(x_tile, gate_tile.T, gate_acc, input_precision="ieee")
            up_tile = load_tile(up, n, k, K, EVEN_K, TMA, False, BLOCK_N, BLOCK_K)
            up_acc = tl.dot(x_tile, up_tile.T, up_acc, input_precision="ieee")
        return gate_acc, up_acc


@triton.jit(do_not_specialize=["M", "up_first"])
def swiglu_kernel(
    y,
    x,
    gate,
    up,
    M,
    N,
    K,
    x_row_stride,
    x_col_stride,
    gate_row_stride,
    gate_col_stride,
    up_row_stride,
    up_col_stride,
    up_first,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    TMA_Y: tl.constexpr,
    PDL: tl.constexpr,
    PERSISTENT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """If TMA, x is a descriptor and gate one of both weights, of which ``up`` may be the first in memory; if TMA_Y, so
    is y."""
    wait_for_previous_kernel(PDL)
    x = (x, M, x_row_stride, x_col_stride)
    gate = (gate, N, gate_row_stride, gate_col_stride)
    up = (up, N, up_row_stride, up_col_stride)
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=PERSISTENT):
        m, n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        gate_acc, up_acc = multiply_two(x, gate, up, m, n, K, up_first, EVEN_K, TMA, BLOCK_M, BLOCK_N, BLOCK_K)
        acc = gate_acc * tl.sigmoid(gate_acc) * up_acc
        finish(y, acc, m, n, M, N, (None, None, 0, 0.0, 0), None, False, TMA_Y, WIDTH)


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
    if gate_weight.dim() != 2 or gate_weight.shape != up_weight.shape:
        raise ValueError(
            f"swiglu: gate_weight is {tuple(gate_weight.shape)}, up_weight {tuple(up_weight.shape)}; needed: equal "
            "(N, K)"
        )
    N, K = gate_weight.shape
    if x.dim() == 0 or x.shape[-1] != K:
        raise ValueError(f"swiglu: x is {tuple(x.shape)}; its last dimension must be {K}")
    y = torch.empty((*x.shape[:-1], N), dtype=x.dtype, device=x.device)
    if not y.numel():
        return y
    M = y.numel() // N
    x, out = x.reshape(M, K), y.view(M, N)
    first, second = gate_weight, up_weight
    if up_weight.data_ptr() < gate_weight.data_ptr():
        first, second = up_weight, gate_weight
    tma = (
        takes_tma(x)
        and K > 0
        and describable(x)
        and describable(first)
        and describable(second)
        and first.stride() == second.stride()
        and first.data_ptr() != second.data_ptr()
    )
    tma_y = tma and describable(out)
    programs, tile = tiles.swiglu(M, N, K, x.dtype, x.device, tma, tma_y)
    BLOCK_M, BLOCK_N, BLOCK_K = tile["BLOCK_M"], tile["BLOCK_N"], tile["BLOCK_K"]
    swiglu_kernel[(programs,)](
        descriptor(out, BLOCK_M, tile["WIDTH"]) if tma_y else out,
        descriptor(x, BLOCK_M, BLOCK_K) if tma else x,
        pair_descriptor(first, second, BLOCK_N, BLOCK_K) if tma else gate_weight,
        None if tma else up_weight,
        M,
        N,
        K,
        *((0,) * 6 if tma else (*x.stride(), *gate_weight.stride(), *up_weight.stride())),
        int(first is up_weight),
        EVEN_K=tma or K % BLOCK_K == 0,
        TMA=tma,
        TMA_Y=tma_y,
        **tiles.dependent(x.device),
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
    if not 0 <= dropout_p < 1:
        raise ValueError(f"fused_ffn: dropout_p is {dropout_p}; needed: 0 ≤ dropout_p < 1")
    if weight.dim() != 2:
        raise ValueError(f"fused_ffn: weight is {tuple(weight.shape)}; needed: (K, N)")
    return launch_linear("fused_ffn", x, weight.t(), bias, activation, residual, dropout_p, seed)
