"""Right and wrong answers to notebook 09's exercises."""

import functools

import torch
import triton
import triton.language as tl


def bytes_of_token(config, length, logits=1, wide=False, cached="num_key_value_heads"):
    hidden, width = config.hidden_size, config.num_attention_heads * config.head_dim
    q = (hidden if wide else width) * hidden
    kv = config.num_key_value_heads * config.head_dim
    layer = 2 * q + 2 * kv * hidden + 3 * config.intermediate_size * hidden
    cache = 2 * length * getattr(config, cached) * config.head_dim
    return 2 * (config.num_hidden_layers * (layer + cache) + logits * config.vocab_size * hidden)


@triton.jit
def int8_kernel(
    y_ptr,
    x_ptr,
    weight_ptr,
    scales_ptr,
    N,
    K,
    WHERE: tl.constexpr,
    MASKED_K: tl.constexpr,
    MASKED_N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = (offs_n < N) | (not MASKED_N)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for k in range(0, K, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_k = (offs_k < K) | (not MASKED_K)
        x = tl.load(x_ptr + offs_k, mask=mask_k, other=0.0)
        ptrs = offs_n[:, None] * K + offs_k[None, :]
        mask = mask_n[:, None] & mask_k[None, :]
        weight = tl.load(weight_ptr + ptrs, mask=mask, other=0).to(tl.float32)
        if WHERE == "each":
            weight *= tl.load(scales_ptr + offs_n[:, None] + 0 * offs_k[None, :], mask=mask, other=0.0)
        acc += weight * x[None, :]
    y = tl.sum(acc, axis=1)
    if WHERE == "after":
        y *= tl.load(scales_ptr + offs_n, mask=mask_n, other=0.0)
    if WHERE == "first":
        y *= tl.load(scales_ptr)
    if WHERE == "twice":
        scale = tl.load(scales_ptr + offs_n, mask=mask_n, other=0.0)
        y *= scale * scale
    tl.store(y_ptr + offs_n, y, mask=mask_n)


def int8_rows(x, weight, scales, WHERE="after", MASKED_K=True, MASKED_N=True, dtype=torch.float32):
    (N, K), y = weight.shape, torch.empty(len(weight), dtype=dtype, device=x.device)
    int8_kernel[(triton.cdiv(N, 16),)](y, x, weight, scales, N, K, WHERE, MASKED_K, MASKED_N, 16, 64)
    return y


@triton.jit
def likeliest_kernel(
    best_ptr, index_ptr, x_ptr, weight_ptr, N, K, OFF: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for k in range(0, K, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + offs_k, mask=offs_k < K, other=0.0).to(tl.float32)
        mask = (offs_n < N)[:, None] & (offs_k < K)[None, :]
        weight = tl.load(weight_ptr + offs_n[:, None] * K + offs_k[None, :], mask=mask, other=0.0)
        acc += weight.to(tl.float32) * x[None, :]
    y = tl.where(offs_n < N, tl.sum(acc, axis=1), OFF)
    best, index = tl.max(y, axis=0, return_indices=True)
    tl.store(best_ptr + tl.program_id(0), best)
    tl.store(index_ptr + tl.program_id(0), tl.program_id(0) * BLOCK_N + index)


def likeliest(x, weight, OFF=float("-inf"), what="index", last=False, BLOCK_N=16):
    (N, K), programs = weight.shape, triton.cdiv(len(weight), BLOCK_N)
    best = torch.empty(programs, device=x.device)
    index = torch.empty(programs, dtype=torch.int32, device=x.device)
    likeliest_kernel[(programs,)](best, index, x, weight, N, K, OFF, BLOCK_N, 64)
    if what == "best":
        return best.max()
    if what == "first program's":
        return index[0]
    equals = index[best == best.max()]
    return equals.max() if last else equals.min()


@triton.jit
def logits_kernel(y_ptr, x_ptr, weight_ptr, K, BLOCK_K: tl.constexpr):
    row, offs_k = tl.program_id(0), tl.arange(0, BLOCK_K)
    x = tl.load(x_ptr + offs_k, mask=offs_k < K, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + row * K + offs_k, mask=offs_k < K, other=0.0).to(tl.float32)
    tl.store(y_ptr + row, tl.sum(x * weight))


def all_logits(x, weight):
    y = torch.empty(len(weight), device=x.device)
    logits_kernel[(len(weight),)](y, x, weight, len(x), triton.next_power_of_2(len(x)))
    return (y == y.max()).nonzero().min()  # the first of equals, on a GPU as well


ANSWERS = {
    "09.a": (
        bytes_of_token,
        {
            functools.partial(bytes_of_token, logits=2): "a token reads one row",
            lambda config, length: bytes_of_token(config, length) // 2: "2 bytes a number",
            functools.partial(bytes_of_token, wide=True): "need not be hidden_size",
            functools.partial(bytes_of_token, cached="num_attention_heads"): "the cache has key/value heads alone",
            lambda config, length: bytes_of_token(config, 0): "10 tokens of cache",
        },
    ),
    "09.b": (
        int8_rows,
        {
            functools.partial(int8_rows, dtype=torch.float16): "y is (N,), float32",
            functools.partial(int8_rows, WHERE="twice"): "the scale is in it twice",
            functools.partial(int8_rows, WHERE="first"): "row n has its own scale",
            functools.partial(int8_rows, MASKED_K=False): "an access outside of a tensor",
            functools.partial(int8_rows, WHERE="each"): "a scale is loaded once a row",
            lambda x, weight, scales: int8_rows(
                x, weight.float() * scales[:, None], torch.ones_like(scales)
            ): "in int8",
            lambda x, weight, scales: weight.float() @ x * scales: "no kernel of yours was launched",
        },
    ),
    "09.c": (
        likeliest,
        {
            functools.partial(likeliest, what="best"): "asked for is where it stands",
            functools.partial(likeliest, what="first program's"): "the best of all programs'",
            functools.partial(likeliest, OFF=0.0, BLOCK_N=8): "must not win with its 0",
            functools.partial(likeliest, last=True): "of equals, the first",
            all_logits: "the logits are written",
        },
    ),
}
