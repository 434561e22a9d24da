"""The linear layers of a decode step: few rows of x, so that reading the weight is all the work there is.

    y = n·weightᵀ + bias + residual   or   silu(n·weightᵀ) · (n·up_weightᵀ) + residual      with n = x, or rms_norm(x)

    x: (M, K), M up to 16   weight, up_weight: (N, K)   residual, y: (M, N)

A multiply and an add for each 16-bit weight: a GPU could do hundreds in the time that the weight takes to arrive. So
what counts is that memory never waits, and that little time passes between two kernels: what stood there in kernels of
its own is done on the way in or out. The norm needs no pass of its own: its factor 1/rms is the same for a whole row of
x, so it is summed up beside the product and applied to the sum.

With one row (M = 1) the product is a sum in registers; a program takes few rows of the weight, and asks for them
*before* it waits for the previous kernel, whose last programs are still running (programmatic dependent launch). With
more rows, tensor cores make the product. ``decode_qkv`` is the form for attention: it turns q and k by their positions'
angles and writes k and v into the cache.
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, need, need_no_grad
from pytriton_llama.kernels.fused_ffn import swiglu
from pytriton_llama.kernels.linear import linear, wait_and_let_in
from pytriton_llama.kernels.rms_norm import rms_norm


@triton.jit
def weight_tile(weight_ptr, rows, mask_rows, k, K: tl.constexpr, BLOCK_K: tl.constexpr):
    # 64-bit before they meet a stride: a vocabulary times a hidden size can pass 2³¹.
    offs_k = k + tl.arange(0, BLOCK_K)
    ptrs = weight_ptr + rows.to(tl.int64)[:, None] * K + offs_k[None, :]
    mask = mask_rows[:, None] & (offs_k < K)[None, :]
    # Nobody else reads it in this step: the cache is better kept for what is shared.
    return tl.load(ptrs, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def row_tile(row_ptr, k, K: tl.constexpr, BLOCK_K: tl.constexpr):
    offs_k = k + tl.arange(0, BLOCK_K)
    return tl.load(row_ptr + offs_k, mask=offs_k < K, other=0.0)


@triton.jit
def ask(
    weight_ptr,
    rows,
    up_ptr,
    up_rows,
    mask_rows,
    norm_ptr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """First tiles of both weights and of the norm's: nobody's results, they can be on their way before the previous
    kernel has finished."""
    if BLOCK_M == 1:
        weight = weight_tile(weight_ptr, rows, mask_rows, 0, K, BLOCK_K)
        up, norm = weight, weight  # in the place of what there is not
        if up_ptr is not None:
            up = weight_tile(up_ptr, up_rows, mask_rows, 0, K, BLOCK_K)
        if norm_ptr is not None:
            norm = row_tile(norm_ptr, 0, K, BLOCK_K)
        return weight, up, norm
    else:
        return rows, rows, rows  # nothing: a pipeline of tiles is too much to have before the wait


@triton.jit
def one_row(
    asked,
    x_ptr,
    weight_ptr,
    rows,
    up_ptr,
    up_rows,
    mask_rows,
    norm_ptr,
    eps,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Products of a row of x with BLOCK_N rows of each weight, (1, BLOCK_N) float32."""
    weight, up, norm = asked
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    up_acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    squares = tl.zeros((BLOCK_K,), tl.float32)
    for k in tl.static_range(0, K, BLOCK_K):
        if k > 0:
            weight = weight_tile(weight_ptr, rows, mask_rows, k, K, BLOCK_K)
            if up_ptr is not None:
                up = weight_tile(up_ptr, up_rows, mask_rows, k, K, BLOCK_K)
            if norm_ptr is not None:
                norm = row_tile(norm_ptr, k, K, BLOCK_K)
        x = row_tile(x_ptr, k, K, BLOCK_K).to(tl.float32)
        if norm_ptr is not None:
            squares += x * x
            x *= norm.to(tl.float32)
        # Each thread sums what it has; threads are summed over once, at the end.
        acc += weight.to(tl.float32) * x[None, :]
        if up_ptr is not None:
            up_acc += up.to(tl.float32) * x[None, :]
    # 1/rms is one number for the whole row: it may as well scale the sum.
    scale = 1.0
    if norm_ptr is not None:
        scale = tl.rsqrt(tl.sum(squares) / K + eps)
    return (tl.sum(acc, axis=1) * scale)[None, :], (tl.sum(up_acc, axis=1) * scale)[None, :]


@triton.jit
def add_product(acc, weight, x):
    """``acc`` + weight·xᵀ, slice by slice. One slice is a product of matrices, which alone Hopper's tensor cores do at
    full speed."""
    if weight.shape[0] == 1:
        weight, x = tl.reshape(weight, weight.shape[1:]), tl.reshape(x, x.shape[1:])
        return tl.dot(weight, x.T, acc, input_precision="ieee")
    else:
        return tl.dot(weight, tl.permute(x, (0, 2, 1)), acc, input_precision="ieee")


@triton.jit
def some_rows(
    x_ptr,
    weight_ptr,
    rows,
    up_ptr,
    up_rows,
    mask_rows,
    norm_ptr,
    eps,
    M,
    K: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The same for up to BLOCK_M rows of x, (BLOCK_M, BLOCK_N), on tensor cores.

    A step along K is cut into slices, one a warp, each with a sum of its own: products that are added up in one place
    wait for each other, and so few rows have no others that a tensor core could do meanwhile. Where programs have 64
    rows of the weight, there are others: one slice.
    """
    SLICE: tl.constexpr = BLOCK_K // SLICES
    offs_m = tl.arange(0, BLOCK_M)
    offs_k = tl.arange(0, SLICES)[:, None] * SLICE + tl.arange(0, SLICE)[None, :]
    x_ptrs = x_ptr + offs_m[None, :, None] * K + offs_k[:, None, :]
    weight_ptrs = weight_ptr + rows.to(tl.int64)[None, :, None] * K + offs_k[:, None, :]
    up_ptrs = weight_ptrs
    if up_ptr is not None:
        up_ptrs = up_ptr + up_rows.to(tl.int64)[None, :, None] * K + offs_k[:, None, :]
    # As linear's SWAP: the weight's rows on the left, x's, padded to BLOCK_M, on the right.
    acc = tl.zeros((SLICES, BLOCK_N, BLOCK_M), tl.float32)
    if SLICES == 1:
        acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    up_acc = acc
    squares = tl.zeros((SLICES, BLOCK_M, SLICE), tl.float32)
    for k in range(0, K, BLOCK_K):
        inside = (k + offs_k < K)[:, None, :]
        x = tl.load(x_ptrs + k, mask=(offs_m < M)[None, :, None] & inside, other=0.0)
        mask = mask_rows[None, :, None] & inside
        weight = tl.load(weight_ptrs + k, mask=mask, other=0.0, eviction_policy="evict_first")
        if up_ptr is not None:
            up = tl.load(up_ptrs + k, mask=mask, other=0.0, eviction_policy="evict_first")
        if norm_ptr is not None:
            squares += x.to(tl.float32) * x.to(tl.float32)
            # The norm's weight goes to the other factor: x is not normed yet, and may be large.
            norm = tl.load(norm_ptr + k + offs_k, mask=k + offs_k < K, other=0.0)[:, None, :]
            weight = (weight * norm).to(x.dtype)
            if up_ptr is not None:
                up = (up * norm).to(x.dtype)
        acc = add_product(acc, weight, x)
        if up_ptr is not None:
            up_acc = add_product(up_acc, up, x)
    y, up_y = acc, up_acc
    if SLICES > 1:
        y, up_y = tl.sum(acc, axis=0), tl.sum(up_acc, axis=0)
    if norm_ptr is not None:
        scale = tl.rsqrt(tl.sum(tl.sum(squares, axis=2), axis=0) / K + eps)[None, :]
        y, up_y = y * scale, up_y * scale
    return y.T, up_y.T


@triton.jit
def products(
    asked,
    x_ptr,
    weight_ptr,
    rows,
    up_ptr,
    up_rows,
    mask_rows,
    norm_ptr,
    eps,
    M,
    K: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    if BLOCK_M == 1:
        return one_row(asked, x_ptr, weight_ptr, rows, up_ptr, up_rows, mask_rows, norm_ptr, eps, K, BLOCK_N, BLOCK_K)
    else:
        return some_rows(
            x_ptr, weight_ptr, rows, up_ptr, up_rows, mask_rows, norm_ptr, eps, M, K, SLICES, BLOCK_M, BLOCK_N,
            BLOCK_K,
        )  # fmt: skip


@triton.jit
def finish(y_ptr, y, up, offs_n, mask_n, up_ptr, bias_ptr, residual_ptr, M, N, BLOCK_M: tl.constexpr):
    """Sums (BLOCK_M, BLOCK_N) become results: gated where there is an ``up_ptr``, plus bias and residual."""
    if up_ptr is not None:
        y = y * tl.sigmoid(y) * up
    if bias_ptr is not None:
        y += tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    offs_m = tl.arange(0, BLOCK_M)
    offs = offs_m.to(tl.int64)[:, None] * N + offs_n[None, :]
    mask = (offs_m < M)[:, None] & mask_n[None, :]
    if residual_ptr is not None:
        y += tl.load(residual_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + offs, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["M"])
def decode_linear_kernel(
    y_ptr,
    x_ptr,
    norm_ptr,
    weight_ptr,
    up_ptr,
    bias_ptr,
    residual_ptr,
    M,
    N,
    eps,
    K: tl.constexpr,
    PDL: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = offs_n < N
    asked = ask(weight_ptr, offs_n, up_ptr, offs_n, mask_n, norm_ptr, K, BLOCK_M, BLOCK_K)
    wait_and_let_in(PDL, BLOCK_M == 1)
    y, up = products(
        asked, x_ptr, weight_ptr, offs_n, up_ptr, offs_n, mask_n, norm_ptr, eps, M, K, SLICES, BLOCK_M, BLOCK_N,
        BLOCK_K,
    )  # fmt: skip
    finish(y_ptr, y, up, offs_n, mask_n, up_ptr, bias_ptr, residual_ptr, M, N, BLOCK_M)


@triton.jit
def newest(lengths_ptr, M, BLOCK_M: tl.constexpr):
    """Positions of the sequences' newest tokens; −1 where there is none."""
    offs_m = tl.arange(0, BLOCK_M)
    return tl.load(lengths_ptr + offs_m, mask=offs_m < M, other=0).to(tl.int64) - 1


@triton.jit
def angles_of(position, cos_ptr, sin_ptr, mask_n, offs_d, HALF: tl.constexpr):
    """What of a tile is to be written, and by which angles it turns.

    Asked for before the products, which give it the time to arrive. The tables repeat themselves in the second half;
    read as given, a caller may pass any rotation.
    """
    # A sequence of length 0 has no newest token: nothing is written for it.
    mask = (position >= 0)[:, None] & mask_n[None, :]
    offs = position[:, None] * (2 * HALF) + offs_d[None, :]
    cos_low, cos_high = tl.load(cos_ptr + offs, mask=mask), tl.load(cos_ptr + offs + HALF, mask=mask)
    sin_low, sin_high = tl.load(sin_ptr + offs, mask=mask), tl.load(sin_ptr + offs + HALF, mask=mask)
    return mask, (cos_low, cos_high, sin_low, sin_high)


@triton.jit
def add_bias(low, high, bias_ptr, rows, mask_n, HALF: tl.constexpr):
    if bias_ptr is not None:
        low += tl.load(bias_ptr + rows, mask=mask_n, other=0.0).to(tl.float32)[None, :]
        high += tl.load(bias_ptr + rows + HALF, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    return low, high


@triton.jit
def turn_and_store(
    low, high, angles, position, mask, heads, offs_d, q_ptr, k_cache, v_cache, q_heads, kv_heads,
    HALF: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """q's and k's pairs (low, high) turn; each element has one of three places."""
    cos_low, cos_high, sin_low, sin_high = angles
    turned_low, turned_high = low * cos_low - high * sin_low, high * cos_high + low * sin_high
    offs_m = tl.arange(0, BLOCK_M).to(tl.int64)
    q_ptrs = q_ptr + (offs_m[:, None] * q_heads + heads[None, :]) * (2 * HALF) + offs_d[None, :]
    of_q = mask & (heads < q_heads)[None, :]
    tl.store(q_ptrs, turned_low.to(q_ptr.dtype.element_ty), mask=of_q)
    tl.store(q_ptrs + HALF, turned_high.to(q_ptr.dtype.element_ty), mask=of_q)
    k_heads = heads - q_heads
    k_ptrs = cache_rows(k_cache, offs_m, position, k_heads) + offs_d[None, :]
    of_k = mask & ((k_heads >= 0) & (k_heads < kv_heads))[None, :]
    tl.store(k_ptrs, turned_low.to(q_ptr.dtype.element_ty), mask=of_k)
    tl.store(k_ptrs + HALF, turned_high.to(q_ptr.dtype.element_ty), mask=of_k)
    v_heads = k_heads - kv_heads
    v_ptrs = cache_rows(v_cache, offs_m, position, v_heads) + offs_d[None, :]
    of_v = mask & (v_heads >= 0)[None, :]
    tl.store(v_ptrs, low.to(q_ptr.dtype.element_ty), mask=of_v)
    tl.store(v_ptrs + HALF, high.to(q_ptr.dtype.element_ty), mask=of_v)


@triton.jit
def cache_rows(cache, offs_m, position, heads):
    ptr, batch_stride, head_stride, row_stride = cache
    return ptr + (offs_m * batch_stride + position * row_stride)[:, None] + heads.to(tl.int64)[None, :] * head_stride


@triton.jit(do_not_specialize=["M"])
def decode_qkv_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    x_ptr,
    norm_ptr,
    weight_ptr,
    bias_ptr,
    cos_ptr,
    sin_ptr,
    lengths_ptr,
    k_batch_stride,
    k_head_stride,
    k_row_stride,
    v_batch_stride,
    v_head_stride,
    v_row_stride,
    M,
    q_heads,
    kv_heads,
    eps,
    K: tl.constexpr,
    HALF: tl.constexpr,
    PDL: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Where weight is None, x has the products already."""
    # A program has some elements d of heads, and their partners d + HALF, with which they are turned.
    pairs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    heads, offs_d = pairs // HALF, pairs % HALF
    mask_n = heads < q_heads + 2 * kv_heads
    rows = heads * (2 * HALF) + offs_d
    if weight_ptr is not None:
        asked = ask(weight_ptr, rows, weight_ptr, rows + HALF, mask_n, norm_ptr, K, BLOCK_M, BLOCK_K)
    if PDL:
        tl.extra.cuda.gdc_wait()
        # In this order: once a program of the next kernel starts, what came before this kernel is known to be over.
        # flash_decoding relies on that to read lengths early.
        if BLOCK_M == 1:
            tl.extra.cuda.gdc_launch_dependents()
    position = newest(lengths_ptr, M, BLOCK_M)
    mask, angles = angles_of(position, cos_ptr, sin_ptr, mask_n, offs_d, HALF)
    if weight_ptr is None:
        offs_m = tl.arange(0, BLOCK_M).to(tl.int64)
        x_ptrs = x_ptr + offs_m[:, None] * K + rows[None, :]
        mask_x = (offs_m < M)[:, None] & mask_n[None, :]
        low, high = tl.load(x_ptrs, mask=mask_x).to(tl.float32), tl.load(x_ptrs + HALF, mask=mask_x).to(tl.float32)
    else:
        low, high = products(
            asked, x_ptr, weight_ptr, rows, weight_ptr, rows + HALF, mask_n, norm_ptr, eps, M, K, SLICES, BLOCK_M,
            BLOCK_N, BLOCK_K,
        )  # fmt: skip
        low, high = add_bias(low, high, bias_ptr, rows, mask_n, HALF)
    k_cache = (k_cache_ptr, k_batch_stride, k_head_stride, k_row_stride)
    v_cache = (v_cache_ptr, v_batch_stride, v_head_stride, v_row_stride)
    turn_and_store(
        low, high, angles, position, mask, heads, offs_d, q_ptr, k_cache, v_cache, q_heads, kv_heads, HALF, BLOCK_M
    )


def decode_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    residual: torch.Tensor | None = None,
    up_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """``n @ weight.T + bias + residual``, or ``silu(n @ weight.T) * (n @ up_weight.T) + residual``; ``n`` is x or, with
    ``norm_weight``, ``rms_norm(x, norm_weight, eps)``. For few rows; forward only.

    Args:
        x: (..., K), contiguous. Beyond 16 rows (M, the product of its other dimensions) the work is done by
            :func:`~pytriton_llama.kernels.rms_norm`, ``linear`` and ``swiglu``.
        weight: (N, K), contiguous.
        bias: (N,); not together with ``up_weight``.
        norm_weight: (K,).
        eps: of the norm.
        residual: (..., N), of the result's shape, contiguous.
        up_weight: as ``weight``.

    Returns:
        A new (..., N) tensor of x's dtype. Sums are float32; float32 inputs are multiplied as such (no TF32). With 2 to
        16 rows, weight · norm_weight is rounded to the dtype first, or in float16, where it may be too large for it,
        the norm's result: results may differ from one row's in last digits.

    Raises:
        TypeError, ValueError: shapes that do not fit, tensors that are not contiguous, and
            :func:`~pytriton_llama.kernels.arguments.check`.
    """
    op = "decode_linear"
    check(op, x=x, weight=weight, bias=bias, norm_weight=norm_weight, residual=residual, up_weight=up_weight)
    M, N, K = sizes(op, x, weight, bias, norm_weight)
    out_shape = (*x.shape[:-1], N)
    need(residual is None or residual.shape == out_shape, f"{op}: residual must be {out_shape}, the result's shape")
    need(up_weight is None or up_weight.shape == weight.shape, f"{op}: up_weight must be ({N}, {K}), as weight")
    need(up_weight is None or bias is None, f"{op}: bias and up_weight exclude each other")
    tensors = {"x": x, "weight": weight, "residual": residual, "up_weight": up_weight}
    _need_contiguous(op, bias=bias, norm_weight=norm_weight, **tensors)
    if M > tiles.DECODE_ROWS:
        n = x if norm_weight is None else rms_norm(x, norm_weight, eps)
        if up_weight is None:
            return linear(n, weight, bias, residual=residual)
        y = swiglu(n, weight, up_weight)
        return y if residual is None else y + residual
    if M > 1 and norm_weight is not None and x.dtype is torch.float16:
        # weight · norm_weight may pass 65504, whatever x is.
        x, norm_weight = rms_norm(x, norm_weight, eps), None
    y = torch.empty(out_shape, dtype=x.dtype, device=x.device)
    if y.numel():
        tile = tiles.decode_linear(M, N, K, 1 if up_weight is None else 2, x.dtype, x.device)
        decode_linear_kernel[(triton.cdiv(N, tile["BLOCK_N"]),)](
            y, x, norm_weight, weight, up_weight, bias, residual, M, N, eps, K, **tiles.dependent(x.device), **tile
        )
    return y


def decode_qkv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    lengths: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """Everything before attention: ``rms_norm(x, norm_weight, eps) @ weight.T + bias`` is q, k and v of each sequence's
    newest token; q and k are turned, k and v written into the cache; forward only.

    Args:
        x: (batch, hidden_size), contiguous.
        weight: ((heads + 2 · kv_heads) · head_dim, hidden_size): q's rows, then k's, then v's; contiguous.
        bias: (the same rows,) or None.
        norm_weight: (hidden_size,).
        eps: of the norm.
        cos, sin: float32 (positions, head_dim), contiguous, as
            :func:`~pytriton_llama.kernels.rotary_embedding` takes them; here row i is position i.
        lengths: (batch,) int32, the newest token included: its position is length − 1. At length 0 nothing is written.
        k_cache, v_cache: (batch, kv_heads, max_length, head_dim), unit last stride; written in place.

    Returns:
        q, (batch, heads, head_dim), turned; undefined at length 0.

    Raises:
        TypeError, ValueError: shapes that do not fit, an odd head_dim, cos or sin not float32, lengths not int32,
            tensors that are not contiguous, and :func:`~pytriton_llama.kernels.arguments.check`.
    """
    op = "decode_qkv"
    check(op, x=x, weight=weight, bias=bias, norm_weight=norm_weight, k_cache=k_cache, v_cache=v_cache)
    batch, heads, hidden_size = check_qkv(op, x, weight, bias, norm_weight, cos, sin, lengths, k_cache, v_cache)
    need(weight.is_contiguous(), f"{op}: weight must be contiguous")
    N, (_, kv_heads, _, head_dim) = weight.shape[0], k_cache.shape
    q = torch.empty((batch, heads, head_dim), dtype=x.dtype, device=x.device)
    if not batch:
        return q
    K = hidden_size
    source: tuple = (x, norm_weight, weight, bias)
    if not tiles.fuses_qkv(batch):
        x, K = linear(rms_norm(x, norm_weight, eps), weight, bias), N
        source = (x, None, None, None)
    elif batch > 1 and x.dtype is torch.float16:  # as decode_linear
        source = (rms_norm(x, norm_weight, eps), None, weight, bias)
    tile = tiles.decode_qkv(batch, N // 2, hidden_size, x.dtype, x.device)
    decode_qkv_kernel[(triton.cdiv(N // 2, tile["BLOCK_N"]),)](
        q, k_cache, v_cache, *source, cos, sin, lengths, *k_cache.stride()[:3], *v_cache.stride()[:3],
        batch, heads, kv_heads, eps, K, head_dim // 2, **tiles.dependent(x.device), **tile,
    )  # fmt: skip
    return q


def check_qkv(op, x, weight, bias, norm_weight, cos, sin, lengths, k_cache, v_cache) -> tuple[int, int, int]:
    """Batch, query heads and hidden size, or an error as :func:`decode_qkv`'s; of the weight, its shape alone."""
    need(x.dim() == 2, f"{op}: x is {tuple(x.shape)}; needed: (batch, hidden_size)")
    batch, N, hidden_size = sizes(op, x, weight, bias, norm_weight)
    need(k_cache.dim() == 4, f"{op}: k_cache is {tuple(k_cache.shape)}; needed: 4 dimensions")
    _, kv_heads, max_length, head_dim = k_cache.shape
    need(
        k_cache.shape == v_cache.shape == (batch, kv_heads, max_length, head_dim),
        f"{op}: k_cache is {tuple(k_cache.shape)}, v_cache {tuple(v_cache.shape)}; needed: both ({batch}, kv_heads, "
        "max_length, head_dim)",
    )
    need(head_dim % 2 == 0 and head_dim > 0, f"{op}: head_dim is {head_dim}; it must be even")
    heads = N // head_dim - 2 * kv_heads
    need(
        heads > 0 and N % head_dim == 0,
        f"{op}: weight has {N} rows; needed: head_dim ({head_dim}) for each head, and twice for each of {kv_heads} "
        "key/value heads",
    )
    for name, t in (("cos", cos), ("sin", sin)):
        if t.dtype is not torch.float32:
            raise TypeError(f"{op}: {name} is {t.dtype}; needed: float32 (16 bits blur large angles)")
        need(
            t.dim() == 2 and t.shape[0] >= max_length and t.shape[1] == head_dim and t.device == x.device,
            f"{op}: {name} is {tuple(t.shape)} on {t.device}; needed: ({max_length} or more, {head_dim}) on {x.device}",
        )
        need_no_grad(op, name, t)
    if lengths.dtype is not torch.int32:
        raise TypeError(f"{op}: lengths are {lengths.dtype}; needed: int32")
    need(
        lengths.shape == (batch,) and lengths.device == x.device,
        f"{op}: lengths are {tuple(lengths.shape)} on {lengths.device}; needed: ({batch},) on {x.device}",
    )
    need(k_cache.stride(3) == v_cache.stride(3) == 1, f"{op}: the caches need a last stride of 1")
    for name, t in (("k_cache", k_cache), ("v_cache", v_cache)):
        spread = all(step != 0 or size <= 1 for size, step in zip(t.shape, t.stride(), strict=True))
        need(spread, f"{op}: {name} is expanded: what is written would lie in one place")
    _need_contiguous(op, x=x, bias=bias, norm_weight=norm_weight, cos=cos, sin=sin, lengths=lengths)
    return batch, heads, hidden_size


def sizes(op, x, weight, bias, norm_weight) -> tuple[int, int, int]:
    """M, N and K, or a ValueError."""
    need(
        x.dim() > 0 and len(weight.shape) == 2 and x.shape[-1] == weight.shape[1],
        f"{op}: x is {tuple(x.shape)}, weight {tuple(weight.shape)}; needed: (..., K) and (N, K)",
    )
    N, K = weight.shape
    need(K > 0, f"{op}: weight is {tuple(weight.shape)}; needed: K above 0")
    need(bias is None or bias.shape == (N,), f"{op}: bias must be ({N},)")
    need(norm_weight is None or norm_weight.shape == (K,), f"{op}: norm_weight must be ({K},)")
    return x.numel() // K, N, K


def _need_contiguous(op: str, **tensors: torch.Tensor | None) -> None:
    for name, t in tensors.items():
        need(t is None or t.is_contiguous(), f"{op}: {name} must be contiguous")
