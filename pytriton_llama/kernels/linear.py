"""A matrix product with everything that follows it done before the result leaves the registers.

    y = dropout(activation(x · weightᵀ + bias)) + residual

    x: (M, K)   weight: (N, K)   bias: (N,)   residual, y: (M, N)

One program makes a BLOCK_M × BLOCK_N tile of y, then another, until none is left. It walks along K and adds up products
of tiles in float32; bias, activation, dropout and residual are applied to the sum, which is rounded once. Where the
last tiles would leave most processors idle, each is cut along K into pieces, and a second kernel adds up their sums.
From sm_90 on the Tensor Memory Accelerator (TMA) fetches and stores whole tiles; elsewhere, and for strides that it
cannot take, threads do so by pointers. ``linear`` is the form without dropout;
:mod:`pytriton_llama.kernels.fused_ffn` has the other.

Osama et al., "Stream-K: work-centric parallel decomposition for dense matrix-matrix multiplication on the GPU", 2023
(arXiv:2301.03598), whose hybrid form cuts only the last tiles as well.
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, describable, descriptor, for_tma, row_major, takes_tma

ACTIVATIONS = (None, "gelu_tanh", "silu")


@triton.jit
def grouped_tile(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """First row and column of a tile of y.

    Programs that run at the same time share rows of x and of weight in the L2 cache if their tiles form a block, not
    a line: walk down GROUP_M tiles, then one to the right.
    """
    num_pid_m = tl.cdiv(M, BLOCK_M)
    num_pid_n = tl.cdiv(N, BLOCK_N)
    group = tile // (GROUP_M * num_pid_n)
    first_m = group * GROUP_M
    # The last group may be shorter.
    rows = tl.minimum(num_pid_m - first_m, GROUP_M)
    within = tile - group * GROUP_M * num_pid_n
    return (first_m + within % rows) * BLOCK_M, within // rows * BLOCK_N


@triton.jit
def load_tile(
    matrix,
    row,
    k,
    K,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A BLOCK_ROWS × BLOCK_K tile; zeros where it overhangs."""
    source, rows, row_stride, k_stride = matrix
    if TMA and TRANSPOSED:
        return source.load([k, row]).T
    elif TMA:
        return source.load([row, k])
    else:
        # 64-bit before they meet a stride: rows × stride can pass 2³¹.
        offs_rows = row.to(tl.int64) + tl.arange(0, BLOCK_ROWS)
        offs_k = k.to(tl.int64) + tl.arange(0, BLOCK_K)
        mask = offs_rows[:, None] < rows
        if not EVEN_K:
            # Both factors need zeros past K: 0 · NaN, from whatever lies there, would be NaN.
            mask = mask & (offs_k[None, :] < K)
        return tl.load(source + offs_rows[:, None] * row_stride + offs_k[None, :] * k_stride, mask=mask, other=0.0)


@triton.jit
def multiply(
    x,
    weight,
    m,
    n,
    first_k,
    steps,
    K,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    WEIGHT_TRANSPOSED: tl.constexpr,
    SWAP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile's float32 sums over ``steps`` steps along K."""
    # Hopper's tensor cores take 64 rows at a time: where tokens are fewer, the weight's rows take their place.
    acc = tl.zeros((BLOCK_N, BLOCK_M) if SWAP else (BLOCK_M, BLOCK_N), tl.float32)
    for step in range(steps):
        k = first_k + step * BLOCK_K
        x_tile = load_tile(x, m, k, K, EVEN_K, TMA, False, BLOCK_M, BLOCK_K)
        weight_tile = load_tile(weight, n, k, K, EVEN_K, TMA, WEIGHT_TRANSPOSED, BLOCK_N, BLOCK_K)
        # "ieee": float32 inputs are multiplied in full, not as TF32; 16-bit inputs are not affected.
        a, b = (weight_tile, x_tile) if SWAP else (x_tile, weight_tile)
        acc = tl.dot(a, b.T, acc, input_precision="ieee")
    return acc.T if SWAP else acc


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        x = x * tl.sigmoid(x)
    if ACTIVATION == "gelu_tanh":
        # 0.5 · x · (1 + tanh z) = x · sigmoid(2z), with z = sqrt(2/π) · (x + 0.044715 x³).
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return x


@triton.jit
def finish(
    y,
    acc,
    m,
    n,
    M,
    N,
    epilogue,
    ACTIVATION: tl.constexpr,
    DROPOUT: tl.constexpr,
    TMA: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A tile of sums becomes one of y, WIDTH columns at a time."""
    BLOCK_M: tl.constexpr = acc.shape[0]
    BLOCK_N: tl.constexpr = acc.shape[1]
    if BLOCK_N > WIDTH:
        # TMA stores from shared memory, of which the loop's tiles leave little: half of the columns, then the others.
        left, right = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
        finish(y, left, m, n, M, N, epilogue, ACTIVATION, DROPOUT, TMA, WIDTH)
        finish(y, right, m, n + BLOCK_N // 2, M, N, epilogue, ACTIVATION, DROPOUT, TMA, WIDTH)
    else:
        bias_ptr, residual, residual_row_stride, dropout_p, seed = epilogue
        offs_m = m.to(tl.int64) + tl.arange(0, BLOCK_M)
        offs_n = n.to(tl.int64) + tl.arange(0, BLOCK_N)
        mask_n = offs_n[None, :] < N
        mask = (offs_m[:, None] < M) & mask_n
        if bias_ptr is not None:
            acc += tl.load(bias_ptr + offs_n[None, :], mask=mask_n, other=0.0).to(tl.float32)
        acc = activate(acc, ACTIVATION)
        y_offs = offs_m[:, None] * N + offs_n[None, :]
        if DROPOUT:
            # Philox makes the random number of an element from (seed, index) alone: any tiling drops the same ones.
            acc = tl.where(tl.rand(seed, y_offs) >= dropout_p, acc / (1.0 - dropout_p), 0.0)
        if residual is not None:
            if TMA:
                acc += residual.load([m, n]).to(tl.float32)
            else:
                residual_ptrs = residual + offs_m[:, None] * residual_row_stride + offs_n[None, :]
                acc += tl.load(residual_ptrs, mask=mask, other=0.0).to(tl.float32)
        if TMA:
            y.store([m, n], acc.to(y.dtype))
        else:
            tl.store(y + y_offs, acc.to(y.dtype.element_ty), mask=mask)


@triton.jit
def wait_for_previous_kernel(PDL: tl.constexpr):
    """Programmatic dependent launch: programs start, and set themselves up, while the previous kernel is finishing."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()  # those of the next kernel may, too
        tl.extra.cuda.gdc_wait()  # from here on, what the previous kernel has written can be read


@triton.jit
def wait_and_let_in(PDL: tl.constexpr, LET_IN: tl.constexpr):
    """The same where LET_IN. Else the next kernel's programs are kept out until this kernel's have ended: where a
    kernel's programs are few and heavy, early ones gather on the multiprocessors that are free first, two on one and
    none on another."""
    if LET_IN:
        wait_for_previous_kernel(PDL)
    elif PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit(do_not_specialize=["M", "seed", "whole", "splits"])
def linear_kernel(
    y,
    x,
    weight,
    bias_ptr,
    residual,
    partial_ptr,
    M,
    N,
    K,
    x_row_stride,
    x_col_stride,
    weight_row_stride,
    weight_col_stride,
    residual_row_stride,
    dropout_p,
    seed,
    whole,
    splits,
    ACTIVATION: tl.constexpr,
    DROPOUT: tl.constexpr,
    EVEN_K: tl.constexpr,
    TMA: tl.constexpr,
    TMA_Y: tl.constexpr,
    WEIGHT_TRANSPOSED: tl.constexpr,
    PDL: tl.constexpr,
    PERSISTENT: tl.constexpr,
    SPLIT: tl.constexpr,
    SWAP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """x and weight are descriptors if TMA, y and residual if TMA_Y; else pointers."""
    wait_for_previous_kernel(PDL)
    x = (x, M, x_row_stride, x_col_stride)
    weight = (weight, N, weight_row_stride, weight_col_stride)
    epilogue = (bias_ptr, residual, residual_row_stride, dropout_p, seed)
    steps = tl.cdiv(K, BLOCK_K)
    pid = tl.program_id(0)
    # Flattened with the walk along K into one loop: while a tile is finished, the next one's first loads are under way.
    for tile in tl.range(pid, whole, tl.num_programs(0), flatten=PERSISTENT):
        m, n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        acc = multiply(x, weight, m, n, 0, steps, K, EVEN_K, TMA, WEIGHT_TRANSPOSED, SWAP, BLOCK_M, BLOCK_N, BLOCK_K)
        finish(y, acc, m, n, M, N, epilogue, ACTIVATION, DROPOUT, TMA_Y, WIDTH)
    if SPLIT:
        # The tiles that are left, each in ``splits`` pieces along K, a piece a program.
        rest = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) - whole
        if pid < rest * splits:
            steps = tl.cdiv(steps, splits)
            first_k = pid // rest * steps * BLOCK_K
            m, n = grouped_tile(whole + pid % rest, M, N, BLOCK_M, BLOCK_N, GROUP_M)
            acc = multiply(
                x, weight, m, n, first_k, steps, K, EVEN_K, TMA, WEIGHT_TRANSPOSED, SWAP, BLOCK_M, BLOCK_N, BLOCK_K
            )
            offs = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
            tl.store(partial_ptr + pid.to(tl.int64) * (BLOCK_M * BLOCK_N) + offs, acc)


@triton.jit(do_not_specialize=["M", "seed", "whole", "splits"])
def sum_kernel(
    y_ptr,
    partial_ptr,
    bias_ptr,
    residual_ptr,
    M,
    N,
    residual_row_stride,
    dropout_p,
    seed,
    whole,
    splits,
    ACTIVATION: tl.constexpr,
    DROPOUT: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Adds up the pieces of some rows of a tile, always in the same order: the same bits each time."""
    wait_for_previous_kernel(PDL)
    tile = tl.program_id(0) // (BLOCK_M // ROWS)
    row = tl.program_id(0) % (BLOCK_M // ROWS) * ROWS
    rest = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) - whole
    offs = (row + tl.arange(0, ROWS)[:, None]) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    acc = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for piece in range(splits):
        acc += tl.load(partial_ptr + (piece * rest + tile).to(tl.int64) * (BLOCK_M * BLOCK_N) + offs)
    m, n = grouped_tile(whole + tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    epilogue = (bias_ptr, residual_ptr, residual_row_stride, dropout_p, seed)
    finish(y_ptr, acc, m + row, n, M, N, epilogue, ACTIVATION, DROPOUT, False, BLOCK_N)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """``activation(x @ weight.T + bias) + residual``; forward only.

    Args:
        x: (..., K), any strides.
        weight: (N, K), any strides.
        bias: (N,).
        activation: None, "gelu_tanh" or "silu".
        residual: (..., N), of the result's shape.

    Returns:
        A new contiguous (..., N) tensor of x's dtype. Sums are float32; float32 inputs are multiplied as such
        (no TF32). The same inputs give the same bits each time.

    Raises:
        TypeError, ValueError: shapes that do not fit, an unknown activation, and
            :func:`~pytriton_llama.kernels.arguments.check`.
    """
    return launch_linear("linear", x, weight, bias, activation, residual)


def launch_linear(op, x, weight, bias, activation, residual, dropout_p=0.0, seed=0):
    """Check, allocate, launch; ``weight`` is (N, K) by its strides."""
    check(op, x=x, weight=weight, bias=bias, residual=residual)
    if x.dim() == 0 or weight.dim() != 2:
        raise ValueError(f"{op}: x is {tuple(x.shape)}, weight {tuple(weight.shape)}; needed: (..., K) and (N, K)")
    N, K = weight.shape
    if x.shape[-1] != K:
        raise ValueError(f"{op}: x is {tuple(x.shape)}; its last dimension must be {K} for this weight")
    y = torch.empty((*x.shape[:-1], N), dtype=x.dtype, device=x.device)
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"{op}: bias is {tuple(bias.shape)}; needed: ({N},)")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation is {activation!r}; known: {ACTIVATIONS}")
    if residual is not None and residual.shape != y.shape:
        raise ValueError(f"{op}: residual is {tuple(residual.shape)}; needed: {tuple(y.shape)}, the result's shape")
    if not y.numel():
        return y
    M = y.numel() // N
    x, out = x.reshape(M, K), y.view(M, N)
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else row_major(residual.reshape(M, N))
    tma = tma_y = takes_tma(x) and K > 0
    transposed = False
    if tma:
        transposed = not describable(weight) and describable(weight.t())
        if M >= 128:  # for fewer rows, copying the weight would take longer than it saves
            x, weight = for_tma(x), weight if transposed else for_tma(weight)
        tma = describable(x) and (transposed or describable(weight))
        tma_y = tma and describable(out) and (residual is None or describable(residual))
    programs, whole, splits, tile = tiles.linear(M, N, K, x.dtype, x.device, tma, tma_y, dropout_p > 0)
    BLOCK_M, BLOCK_N, BLOCK_K = tile["BLOCK_M"], tile["BLOCK_N"], tile["BLOCK_K"]
    rest = -(-M // BLOCK_M) * -(-N // BLOCK_N) - whole
    partial = None
    if splits > 1:
        partial = torch.empty(splits * rest * BLOCK_M * BLOCK_N, dtype=torch.float32, device=x.device)
    after = (0 if residual is None else residual.stride(0), dropout_p, seed, whole, splits)
    common = {"ACTIVATION": activation, "DROPOUT": dropout_p > 0} | tiles.dependent(x.device)
    linear_kernel[(programs,)](
        descriptor(out, BLOCK_M, tile["WIDTH"]) if tma_y else out,
        descriptor(x, BLOCK_M, BLOCK_K) if tma else x,
        descriptor(weight, BLOCK_N, BLOCK_K) if tma else weight,
        bias,
        descriptor(residual, BLOCK_M, tile["WIDTH"]) if tma_y and residual is not None else residual,
        partial,
        M,
        N,
        K,
        *((0, 0, 0, 0) if tma else (*x.stride(), *weight.stride())),
        *after,
        EVEN_K=tma or K % BLOCK_K == 0,
        TMA=tma,
        TMA_Y=tma_y,
        WEIGHT_TRANSPOSED=tma and transposed,
        SPLIT=splits > 1,
        **common,
        **tile,
    )
    if splits > 1:
        ROWS = min(BLOCK_M, 2048 // BLOCK_N)
        blocks = {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "GROUP_M": tile["GROUP_M"], "ROWS": ROWS}
        sum_kernel[(rest * BLOCK_M // ROWS,)](out, partial, bias, residual, M, N, *after, **common, **blocks)
    return y
