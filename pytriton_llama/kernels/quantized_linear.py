"""Linear layers whose weight is in 8 or 4 bits: a half or a quarter of the bytes, and so of a decode step's time.

    y = n·Wᵀ + bias + residual   or   silu(n·Wᵀ) · (n·Uᵀ) + residual      with n = x, or rms_norm(x)

    x: (M, K)   W, U: QuantizedWeight of (N, K)   residual, y: (M, N)

Weights become numbers in registers only. One row of x (M = 1) is :mod:`decode_linear`'s sum, a chunk of 16 bytes a
thread. A field moves into a float's mantissa, and a constant exponent turns it into a power of two + q: no conversion.
What is too much in that is the same multiple of the sum of x for every row, taken off once a chunk, with the group's
scale. Up to 64 rows are multiplied by tensor cores, group by group. More are worth a weight in x's dtype, written out
once for :mod:`linear`, whose tensor cores have no time to unpack.

The integers in a float's mantissa: Kim et al., "Who says elephants can't run: bringing large scale MoE models into
cloud scale production", 2022 (arXiv:2211.10017).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, need, need_no_grad
from pytriton_llama.kernels.decode_linear import (
    add_bias,
    angles_of,
    check_qkv,
    decode_qkv_kernel,
    finish,
    newest,
    sizes,
    turn_and_store,
)
from pytriton_llama.kernels.fused_ffn import swiglu
from pytriton_llama.kernels.linear import linear, wait_and_let_in, wait_for_previous_kernel
from pytriton_llama.kernels.quantized_weight import QuantizedWeight
from pytriton_llama.kernels.rms_norm import rms_norm

EXPONENT = (127 + 8) << 23  # the bits of float32's 2^8, see field


@triton.jit
def field(words, exponent, j: tl.constexpr, BITS: tl.constexpr, PER_SHIFT: tl.constexpr):
    """Field j of each word as float32, :func:`excess` too large.

    As mantissa bits below an exponent q says 2^e + q. PER_SHIFT fields stay one above the other, so that they share a
    shift: of two with 4 bits the upper one has 2^4 + q, the lower one 2^8 + q, as one of 8 bits has. The exponent's
    bits (2^8's) come as an argument, since one instruction can "and" with one constant and "or" with a register, not
    with another constant.
    """
    LAST: tl.constexpr = j | (PER_SHIFT - 1)
    TOP: tl.constexpr = 23 - BITS
    moved = words << (TOP - BITS * LAST) if BITS * LAST <= TOP else words >> (BITS * LAST - TOP)
    FIRST_BIT: tl.constexpr = TOP - BITS * (LAST - j)
    bits = (moved & (((1 << BITS) - 1) << FIRST_BIT)) | (exponent - ((FIRST_BIT - 15) << 23))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def excess(j: tl.constexpr, HAS_MINIMA: tl.constexpr, BITS: tl.constexpr, PER_SHIFT: tl.constexpr):
    """What :func:`field` has too much, and without minima 2^(BITS − 1), q's zero."""
    ABOVE: tl.constexpr = (j | (PER_SHIFT - 1)) - j
    return (1 << (BITS + BITS * ABOVE)) + (0 if HAS_MINIMA else 1 << (BITS - 1))


@triton.jit
def row_of_x(
    x_ptr, norm_ptr, eps, K: tl.constexpr, BITS: tl.constexpr, PER_SHIFT: tl.constexpr, HAS_MINIMA: tl.constexpr
):
    """A row of x in registers: for each field the numbers that it meets, (chunks, 4); each chunk's Σ excess · x and
    Σ x; and 1/rms, which leaves the products as in decode_linear."""
    FIELDS: tl.constexpr = 32 // BITS
    offs_c = tl.arange(0, triton.next_power_of_2(K // (4 * FIELDS)))
    within = offs_c[:, None] * (4 * FIELDS) + tl.arange(0, 4)[None, :]
    xs: tl.tuple = ()  # type: ignore[assignment]
    x_sum = tl.zeros(within.shape, tl.float32)
    offset = tl.zeros(within.shape, tl.float32)
    squares = tl.zeros(within.shape, tl.float32)
    for j in tl.static_range(FIELDS):
        offs_k = within + 4 * j
        x = tl.load(x_ptr + offs_k, mask=offs_k < K, other=0.0).to(tl.float32)
        if norm_ptr is not None:
            squares += x * x
            x *= tl.load(norm_ptr + offs_k, mask=offs_k < K, other=0.0).to(tl.float32)
        x_sum += x
        offset += excess(j, HAS_MINIMA, BITS, PER_SHIFT) * x
        xs = xs + (x,)  # noqa: RUF005 (Triton's tuples know no stars)
    scale = 1.0
    if norm_ptr is not None:
        scale = tl.rsqrt(tl.sum(tl.sum(squares, axis=1), axis=0) / K + eps)
    return xs, tl.sum(offset, axis=1), tl.sum(x_sum, axis=1), scale


@triton.jit
def whole_rows(weight, rows, mask_rows, K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr):
    """Words (chunks, rows, 4), and each chunk's scale and minimum, (chunks, rows)."""
    packed_ptr, scales_ptr, minima_ptr = weight
    CHUNK: tl.constexpr = 128 // BITS
    # Chunks come first: then neighbouring threads have neighbouring chunks, as they have of x.
    offs_c = tl.arange(0, triton.next_power_of_2(K // CHUNK))
    mask = (offs_c < K // CHUNK)[:, None] & mask_rows[None, :]
    # 64-bit before they meet a stride: a vocabulary times a hidden size can pass 2³¹.
    rows = rows.to(tl.int64)[None, :]
    offs = rows * (K // CHUNK * 4) + offs_c[:, None] * 4
    ptrs = packed_ptr + offs[:, :, None] + tl.arange(0, 4)[None, None, :]
    # Nobody else reads it in this step: the cache is better kept for what is shared.
    words = tl.load(ptrs, mask=mask[:, :, None], other=0, eviction_policy="evict_first")
    offs = rows * (K // GROUP) + (offs_c * CHUNK // GROUP)[:, None]
    scales = tl.load(scales_ptr + offs, mask=mask, other=0.0)
    minima = scales  # in the place of what there is not
    if minima_ptr is not None:
        minima = tl.load(minima_ptr + offs, mask=mask, other=0.0)
    return words, scales, minima


@triton.jit
def ask_rows(weight, rows, up_weight, up_rows, mask_rows, K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr):
    """:func:`whole_rows` of both weights."""
    words, scales, minima = whole_rows(weight, rows, mask_rows, K, BITS, GROUP)
    up_words, up_scales, up_minima = words, scales, minima
    if up_weight[0] is not None:
        up_words, up_scales, up_minima = whole_rows(up_weight, up_rows, mask_rows, K, BITS, GROUP)
    return words, scales, minima, up_words, up_scales, up_minima


@triton.jit
def row_products(
    row, words, scales, minima, exponent, HAS_MINIMA: tl.constexpr, BITS: tl.constexpr, PER_SHIFT: tl.constexpr
):
    """Products of a row of x with rows of the weight, (1, rows) float32."""
    xs, offset, x_sum, scale = row
    total = tl.zeros(words.shape, tl.float32)
    for j in tl.static_range(32 // BITS):
        total += field(words, exponent, j, BITS, PER_SHIFT) * xs[j][:, None, :]
    y = scales.to(tl.float32) * (tl.sum(total, axis=2) - offset[:, None])
    if HAS_MINIMA:
        y += minima.to(tl.float32) * x_sum[:, None]
    return (tl.sum(y, axis=0) * scale)[None, :]


@triton.jit
def integers(words, exponent, j: tl.constexpr, count: tl.constexpr, HAS_MINIMA: tl.constexpr, BITS: tl.constexpr):
    """Fields j to j + count without their excess, (rows, words, count), float32."""
    if count == 1:
        return field(words, exponent, j, BITS, 8 // BITS) - excess(j, HAS_MINIMA, BITS, 8 // BITS)
    else:
        HALF: tl.constexpr = count // 2
        low = integers(words, exponent, j, HALF, HAS_MINIMA, BITS)
        high = integers(words, exponent, j + HALF, HALF, HAS_MINIMA, BITS)
        # join puts them side by side along a new last dimension.
        both = tl.join(low, high)
        if HALF > 1:
            both = tl.reshape(tl.permute(both, (0, 1, 3, 2)), (words.shape[0], words.shape[1], count))
        return both


@triton.jit
def group_product(
    x, weight, rows, mask_rows, scales, minima, exponent, k, K: tl.constexpr, BITS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x times BLOCK_K weights of one group of each row, (BLOCK_N, BLOCK_M) float32. What tensor cores multiply are
    integers, which 16 bits hold exactly."""
    packed_ptr, _, minima_ptr = weight
    FIELDS: tl.constexpr = 32 // BITS
    HAS_MINIMA: tl.constexpr = minima_ptr is not None
    offs_w = k // FIELDS + tl.arange(0, BLOCK_K // FIELDS)
    ptrs = packed_ptr + rows.to(tl.int64)[:, None] * (K // FIELDS) + offs_w[None, :]
    words = tl.load(ptrs, mask=mask_rows[:, None], other=0, eviction_policy="evict_first")
    # (rows, chunks, words, fields) → (rows, chunks, fields, words): the order of k.
    q = integers(words, exponent, 0, FIELDS, HAS_MINIMA, BITS)
    q = tl.permute(tl.reshape(q, (BLOCK_N, BLOCK_K // (4 * FIELDS), 4, FIELDS)), (0, 1, 3, 2))
    q = tl.reshape(q, (BLOCK_N, BLOCK_K)).to(x.dtype)
    y = tl.dot(q, x.T, input_precision="ieee") * scales.to(tl.float32)[:, None]
    if HAS_MINIMA:
        # Tensor cores have time to sum x up, too, and leave the sums where y has its numbers.
        ones = tl.full((BLOCK_N, BLOCK_K), 1.0, x.dtype)
        y += tl.dot(ones, x.T, input_precision="ieee") * minima.to(tl.float32)[:, None]
    return y


@triton.jit
def groups_at(weight, rows, mask_rows, k, K: tl.constexpr, GROUP: tl.constexpr):
    """Scale and minimum of each row's group at k, (rows,)."""
    _, scales_ptr, minima_ptr = weight
    offs, mask = rows.to(tl.int64) * (K // GROUP) + k // GROUP, mask_rows & (k < K)
    scales = tl.load(scales_ptr + offs, mask=mask, other=0.0)
    minima = scales
    if minima_ptr is not None:
        minima = tl.load(minima_ptr + offs, mask=mask, other=0.0)
    return scales, minima


@triton.jit
def rows_products(
    x_ptr, weight, rows, up_weight, up_rows, mask_rows, exponent, M, K: tl.constexpr, BITS: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Products of up to BLOCK_M rows of x with BLOCK_N rows of each weight, (BLOCK_M, BLOCK_N), group by group:
    BLOCK_K divides GROUP."""
    HAS_UP: tl.constexpr = up_weight[0] is not None
    offs_m = tl.arange(0, BLOCK_M)
    x_ptrs = x_ptr + offs_m[:, None] * K + tl.arange(0, BLOCK_K)[None, :]
    # As linear's SWAP: the weight's rows on the left, x's, padded to BLOCK_M, on the right.
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    up_acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    # Triton's pipeline takes loads of at least 4 bytes a thread: scales are asked for a step ahead by hand.
    scales, minima = groups_at(weight, rows, mask_rows, 0, K, GROUP)
    up_scales, up_minima = scales, minima
    if HAS_UP:
        up_scales, up_minima = groups_at(up_weight, up_rows, mask_rows, 0, K, GROUP)
    for k in range(0, K, BLOCK_K):
        x = tl.load(x_ptrs + k, mask=(offs_m < M)[:, None], other=0.0)
        next_scales, next_minima = groups_at(weight, rows, mask_rows, k + BLOCK_K, K, GROUP)
        acc += group_product(x, weight, rows, mask_rows, scales, minima, exponent, k, K, BITS, BLOCK_N, BLOCK_K)
        scales, minima = next_scales, next_minima
        if HAS_UP:
            next_scales, next_minima = groups_at(up_weight, up_rows, mask_rows, k + BLOCK_K, K, GROUP)
            up_acc += group_product(
                x, up_weight, up_rows, mask_rows, up_scales, up_minima, exponent, k, K, BITS, BLOCK_N, BLOCK_K
            )
            up_scales, up_minima = next_scales, next_minima
    return acc.T, up_acc.T


@triton.jit(do_not_specialize=["M", "exponent"])
def quantized_linear_kernel(
    y_ptr,
    x_ptr,
    norm_ptr,
    packed_ptr,
    scales_ptr,
    minima_ptr,
    up_packed_ptr,
    up_scales_ptr,
    up_minima_ptr,
    bias_ptr,
    residual_ptr,
    M,
    N,
    eps,
    exponent,
    K: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    weight, up_weight = (packed_ptr, scales_ptr, minima_ptr), (up_packed_ptr, up_scales_ptr, up_minima_ptr)
    HAS_MINIMA: tl.constexpr = minima_ptr is not None
    # float32 has no bits to spare for a second excess.
    PER_SHIFT: tl.constexpr = 1 if x_ptr.dtype.element_ty == tl.float32 else 8 // BITS
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    if BLOCK_M == 1:
        asked = ask_rows(weight, offs_n, up_weight, offs_n, offs_n < N, K, BITS, GROUP)
        wait_for_previous_kernel(PDL)
        row = row_of_x(x_ptr, norm_ptr, eps, K, BITS, PER_SHIFT, HAS_MINIMA)
        step = tl.num_programs(0) * BLOCK_N
        for _ in range(tl.program_id(0) * BLOCK_N, N, step):
            # x stays; the next rows are on their way while these are multiplied.
            offs_next = offs_n + step
            asked_next = ask_rows(weight, offs_next, up_weight, offs_next, offs_next < N, K, BITS, GROUP)
            y = row_products(row, asked[0], asked[1], asked[2], exponent, HAS_MINIMA, BITS, PER_SHIFT)
            up = y
            if up_packed_ptr is not None:
                up = row_products(row, asked[3], asked[4], asked[5], exponent, HAS_MINIMA, BITS, PER_SHIFT)
            finish(y_ptr, y, up, offs_n, offs_n < N, up_packed_ptr, bias_ptr, residual_ptr, M, N, BLOCK_M)
            offs_n, asked = offs_next, asked_next
    else:
        wait_and_let_in(PDL, False)
        y, up = rows_products(
            x_ptr, weight, offs_n, up_weight, offs_n, offs_n < N, exponent, M, K, BITS, GROUP, BLOCK_M, BLOCK_N, BLOCK_K
        )
        finish(y_ptr, y, up, offs_n, offs_n < N, up_packed_ptr, bias_ptr, residual_ptr, M, N, BLOCK_M)


@triton.jit(do_not_specialize=["M", "exponent"])
def quantized_qkv_kernel(
    q_ptr,
    k_cache_ptr,
    v_cache_ptr,
    x_ptr,
    norm_ptr,
    packed_ptr,
    scales_ptr,
    minima_ptr,
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
    exponent,
    K: tl.constexpr,
    HALF: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """As decode_qkv_kernel: a row's partner is HALF rows further."""
    weight = (packed_ptr, scales_ptr, minima_ptr)
    HAS_MINIMA: tl.constexpr = minima_ptr is not None
    PER_SHIFT: tl.constexpr = 1 if x_ptr.dtype.element_ty == tl.float32 else 8 // BITS
    k_cache = (k_cache_ptr, k_batch_stride, k_head_stride, k_row_stride)
    v_cache = (v_cache_ptr, v_batch_stride, v_head_stride, v_row_stride)
    count = (q_heads + 2 * kv_heads) * HALF
    pairs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = pairs // HALF * (2 * HALF) + pairs % HALF
    if BLOCK_M == 1:
        asked = ask_rows(weight, rows, weight, rows + HALF, pairs < count, K, BITS, GROUP)
        if PDL:
            tl.extra.cuda.gdc_wait()
            tl.extra.cuda.gdc_launch_dependents()  # in this order, as there
        position = newest(lengths_ptr, M, BLOCK_M)
        row = row_of_x(x_ptr, norm_ptr, eps, K, BITS, PER_SHIFT, HAS_MINIMA)
        step = tl.num_programs(0) * BLOCK_N
        for _ in range(tl.program_id(0) * BLOCK_N, count, step):
            mask, angles = angles_of(position, cos_ptr, sin_ptr, pairs < count, pairs % HALF, HALF)
            next_pairs = pairs + step
            next_rows = next_pairs // HALF * (2 * HALF) + next_pairs % HALF
            asked_next = ask_rows(weight, next_rows, weight, next_rows + HALF, next_pairs < count, K, BITS, GROUP)
            low = row_products(row, asked[0], asked[1], asked[2], exponent, HAS_MINIMA, BITS, PER_SHIFT)
            high = row_products(row, asked[3], asked[4], asked[5], exponent, HAS_MINIMA, BITS, PER_SHIFT)
            low, high = add_bias(low, high, bias_ptr, rows, pairs < count, HALF)
            turn_and_store(
                low, high, angles, position, mask, pairs // HALF, pairs % HALF, q_ptr, k_cache, v_cache, q_heads,
                kv_heads, HALF, BLOCK_M,
            )  # fmt: skip
            pairs, rows, asked = next_pairs, next_rows, asked_next
    else:
        wait_and_let_in(PDL, False)
        position = newest(lengths_ptr, M, BLOCK_M)
        mask, angles = angles_of(position, cos_ptr, sin_ptr, pairs < count, pairs % HALF, HALF)
        low, high = rows_products(
            x_ptr, weight, rows, weight, rows + HALF, pairs < count, exponent, M, K, BITS, GROUP, BLOCK_M, BLOCK_N,
            BLOCK_K,
        )  # fmt: skip
        low, high = add_bias(low, high, bias_ptr, rows, pairs < count, HALF)
        turn_and_store(
            low, high, angles, position, mask, pairs // HALF, pairs % HALF, q_ptr, k_cache, v_cache, q_heads, kv_heads,
            HALF, BLOCK_M,
        )  # fmt: skip


@triton.jit
def dequantize_kernel(
    y_ptr,
    packed_ptr,
    scales_ptr,
    minima_ptr,
    count,
    K: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Of ``count`` chunks, which lie one after the other whatever their row."""
    FIELDS: tl.constexpr = 32 // BITS
    CHUNK: tl.constexpr = 4 * FIELDS
    wait_for_previous_kernel(PDL)
    offs_c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    ptrs = packed_ptr + offs_c[:, None] * 4 + tl.arange(0, 4)[None, :]
    words = tl.load(ptrs, mask=(offs_c < count)[:, None], other=0)[:, None, :]
    q = (words >> (BITS * tl.arange(0, FIELDS))[None, :, None]) & ((1 << BITS) - 1)
    # Groups lie one after the other, too.
    groups = offs_c * CHUNK // GROUP
    scales = tl.load(scales_ptr + groups, mask=offs_c < count, other=0.0).to(tl.float32)[:, None, None]
    if minima_ptr is not None:
        minima = tl.load(minima_ptr + groups, mask=offs_c < count, other=0.0).to(tl.float32)[:, None, None]
        w = q.to(tl.float32) * scales + minima
    else:
        w = (q - (1 << BITS) // 2).to(tl.float32) * scales
    w = tl.reshape(w.to(y_ptr.dtype.element_ty), (BLOCK_C * CHUNK,))
    offs = tl.program_id(0).to(tl.int64) * (BLOCK_C * CHUNK) + tl.arange(0, BLOCK_C * CHUNK)
    # Chunks are compared, not elements: count · CHUNK can pass 2³¹.
    tl.store(y_ptr + offs, w, mask=offs // CHUNK < count)


def quantized_linear(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    residual: torch.Tensor | None = None,
    up_weight: QuantizedWeight | None = None,
) -> torch.Tensor:
    """:func:`~pytriton_llama.kernels.decode_linear` with weights in 8 or 4 bits, for any number of rows; forward only.

    Args:
        x: (..., K), contiguous.
        weight: of (N, K); its tensors contiguous.
        bias: (N,); not together with ``up_weight``.
        norm_weight: (K,).
        eps: of the norm.
        residual: (..., N), of the result's shape, contiguous.
        up_weight: as ``weight``, of the same bits, group size and kind.

    Returns:
        A new (..., N) tensor of x's dtype. Sums are float32. Beyond 64 rows weights are rounded to x's dtype first,
        below they are not; beyond one, ``rms_norm``'s result is. An inf in x or norm_weight may make NaN of what
        would be inf, where there is one row, or where the weight has minima: a weight's two terms are summed apart.

    Raises:
        TypeError, ValueError: shapes or forms that do not fit, tensors that are not contiguous, and
            :func:`~pytriton_llama.kernels.arguments.check`.
    """
    op = "quantized_linear"
    check(op, x=x, bias=bias, norm_weight=norm_weight, residual=residual)
    M, N, K = sizes(op, x, weight, bias, norm_weight)
    out_shape = (*x.shape[:-1], N)
    need(residual is None or residual.shape == out_shape, f"{op}: residual must be {out_shape}, the result's shape")
    need(up_weight is None or bias is None, f"{op}: bias and up_weight exclude each other")
    check_weight(op, weight, x)
    if up_weight is not None:
        check_weight(op, up_weight, x)
        alike = up_weight.shape == weight.shape and up_weight.form == weight.form
        need(alike, f"{op}: up_weight must be ({N}, {K}) in {weight.bits} bits, groups and minima as weight")
    for name, t in {"x": x, "bias": bias, "norm_weight": norm_weight, "residual": residual}.items():
        need(t is None or t.is_contiguous(), f"{op}: {name} must be contiguous")
    if M > 1 and norm_weight is not None:
        x, norm_weight = rms_norm(x, norm_weight, eps), None
    if M > tiles.QUANTIZED_ROWS:
        if up_weight is None:
            return linear(x, dequantize(weight, x.dtype), bias, residual=residual)
        y = swiglu(x, dequantize(weight, x.dtype), dequantize(up_weight, x.dtype))
        return y if residual is None else y + residual
    y = torch.empty(out_shape, dtype=x.dtype, device=x.device)
    if y.numel():
        programs, tile = tiles.quantized_linear(M, N, K, 1 if up_weight is None else 2, weight, x.dtype)
        up = (None, None, None) if up_weight is None else up_weight.tensors
        quantized_linear_kernel[(programs,)](
            y, x, norm_weight, *weight.tensors, *up, bias, residual, M, N, eps, EXPONENT,
            K, weight.bits, weight.group_size, **tiles.dependent(x.device), **tile,
        )  # fmt: skip
    return y


def quantized_qkv(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    lengths: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """:func:`~pytriton_llama.kernels.decode_qkv` with such a weight; arguments, result and errors as there."""
    op = "quantized_qkv"
    check(op, x=x, bias=bias, norm_weight=norm_weight, k_cache=k_cache, v_cache=v_cache)
    batch, heads, K = check_qkv(op, x, weight, bias, norm_weight, cos, sin, lengths, k_cache, v_cache)
    check_weight(op, weight, x)
    kv_heads, head_dim = k_cache.shape[1], k_cache.shape[3]
    q = torch.empty((batch, heads, head_dim), dtype=x.dtype, device=x.device)
    if not batch:
        return q
    strides = (*k_cache.stride()[:3], *v_cache.stride()[:3])
    after = (cos, sin, lengths, *strides, batch, heads, kv_heads, eps)
    pairs = weight.shape[0] // 2
    if tiles.fuses_qkv(batch):
        if batch > 1 and norm_weight is not None:
            x, norm_weight = rms_norm(x, norm_weight, eps), None
        programs, tile = tiles.quantized_linear(batch, pairs, K, 2, weight, x.dtype)
        quantized_qkv_kernel[(programs,)](
            q, k_cache, v_cache, x, norm_weight, *weight.tensors, bias, *after, EXPONENT, K,
            head_dim // 2, weight.bits, weight.group_size, **tiles.dependent(x.device), **tile,
        )  # fmt: skip
    else:
        x = quantized_linear(x, weight, bias, norm_weight, eps)
        tile = tiles.qkv_without_products(batch, pairs)
        decode_qkv_kernel[(triton.cdiv(pairs, tile["BLOCK_N"]),)](
            q, k_cache, v_cache, x, None, None, None, *after, 2 * pairs, head_dim // 2,
            **tiles.dependent(x.device), **tile,
        )  # fmt: skip
    return q


def dequantize(weight: QuantizedWeight, dtype: torch.dtype) -> torch.Tensor:
    """The weight (N, K) written out in ``dtype``.

    Raises:
        TypeError, ValueError: as :func:`quantized_linear`'s.
    """
    y = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    check_weight("dequantize", weight, y)
    if y.numel():
        count = weight.packed.numel() // 4
        tile = tiles.dequantize(count, weight.bits)
        dequantize_kernel[(triton.cdiv(count, tile["BLOCK_C"]),)](
            y, *weight.tensors, count, weight.shape[1], weight.bits, weight.group_size, **tiles.dependent(y.device),
            **tile,
        )  # fmt: skip
    return y


def check_weight(op: str, weight: QuantizedWeight, x: torch.Tensor) -> None:
    """Raise unless its tensors are what :class:`QuantizedWeight` says, contiguous and beside x."""
    N, K = weight.shape
    chunk = 128 // weight.bits
    group = weight.group_size
    need(
        group > 0 and group % chunk == 0 and K % group == 0,
        f"{op}: weight is ({N}, {K}) in groups of {group}; needed: groups of a multiple of {chunk} that divides {K}",
    )
    for name, t, dtype in zip(
        ("packed", "scales", "minima"), weight.tensors, (torch.int32, torch.float16, torch.float16), strict=True
    ):
        if t is None:  # minima
            continue
        if t.dtype is not dtype:
            raise TypeError(f"{op}: weight's {name} is {t.dtype}; needed: {dtype}")
        shape = (N, K * weight.bits // 32) if name == "packed" else (N, K // group)
        need(t.shape == shape, f"{op}: weight's {name} is {tuple(t.shape)}; needed: {shape}")
        need(t.is_contiguous(), f"{op}: weight's {name} must be contiguous")
        need_no_grad(op, f"weight's {name}", t)
        need(t.device == x.device, f"{op}: weight's {name} is on {t.device} but x is on {x.device}")
