"""Right and wrong answers to notebook 07's exercises."""

import functools

import torch
import triton
import triton.language as tl


def prefix_range(pid_m, prefix, length_q, length_k, BLOCK_M, BLOCK_N, clip=True, offset=True, round_after=True):
    first = pid_m * BLOCK_M + (length_k - length_q if offset else 0)  # the first query's position
    last = min(first + BLOCK_M, length_k) if clip else first + BLOCK_M
    if round_after:
        stop_full = max(first + 1, prefix) // BLOCK_N * BLOCK_N
    else:
        stop_full = max((first + 1) // BLOCK_N * BLOCK_N, prefix)
    return stop_full, max(last, prefix)


@triton.jit
def alibi_kernel(
    o_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    slopes_ptr,
    length,
    scale,
    FACTOR: tl.constexpr,
    LOCAL: tl.constexpr,
    ONE_SLOPE: tl.constexpr,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    num_pid_m = length // BLOCK
    pid_m, head = tl.program_id(0) % num_pid_m, tl.program_id(0) // num_pid_m
    offs_m = pid_m * BLOCK + tl.arange(0, BLOCK)
    offs_n, offs_d = tl.arange(0, BLOCK), tl.arange(0, D)
    q_offs = (head * length + offs_m)[:, None] * D + offs_d[None, :]
    kv_offs = (head * length + offs_n)[:, None] * D + offs_d[None, :]
    q = tl.load(q_ptr + q_offs)
    slope = tl.load(slopes_ptr + (0 if ONE_SLOPE else head)) * FACTOR
    acc = tl.zeros((BLOCK, D), tl.float32)
    row_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK,), tl.float32)
    for start_n in range(0, pid_m * BLOCK + BLOCK if CAUSAL else length, BLOCK):
        k = tl.load(k_ptr + kv_offs + start_n * D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * 1.4426950408889634)
        distance = offs_m[:, None] - (start_n + offs_n)[None, :]
        if LOCAL:
            scores -= slope * (offs_m[:, None] - offs_n[None, :])
        else:
            scores -= slope * distance
        if CAUSAL:
            scores = tl.where(distance >= 0, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_max[:, None])
        rescale = tl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + tl.sum(p, axis=1)
        v = tl.load(v_ptr + kv_offs + start_n * D)
        acc = tl.dot(p, v, acc * rescale[:, None], input_precision="ieee")
        row_max = new_max
    tl.store(o_ptr + q_offs, acc / row_sum[:, None])


def alibi(q, k, v, slopes, FACTOR=1.4426950408889634, LOCAL=False, ONE_SLOPE=False, CAUSAL=True):
    (_, heads, length, d), BLOCK = q.shape, 32
    o = torch.empty_like(q)
    grid = (heads * (length // BLOCK),)
    alibi_kernel[grid](o, q, k, v, slopes, length, d**-0.5, FACTOR, LOCAL, ONE_SLOPE, CAUSAL, d, BLOCK)
    return o


def in_torch(q, k, v, slopes):
    distance = torch.arange(q.shape[2], device=q.device)[:, None] - torch.arange(q.shape[2], device=q.device)
    scores = q @ k.mT * q.shape[3] ** -0.5 - slopes[:, None, None] * distance
    return torch.softmax(scores.masked_fill(distance < 0, float("-inf")), -1) @ v


def merge(o_a, lse_a, o_b, lse_b):
    shift = torch.maximum(lse_a, lse_b)
    shift = torch.where(shift == float("-inf"), 0.0, shift)
    a, b = (lse_a - shift).exp(), (lse_b - shift).exp()
    total = a + b
    o = (a[..., None] * o_a + b[..., None] * o_b) / torch.where(total == 0, 1.0, total)[..., None]
    return o, shift + total.log()


def mean(o_a, lse_a, o_b, lse_b):
    return (o_a + o_b) / 2, torch.logaddexp(lse_a, lse_b)


def not_shifted(o_a, lse_a, o_b, lse_b):
    a, b = lse_a.exp(), lse_b.exp()
    return (a[..., None] * o_a + b[..., None] * o_b) / (a + b)[..., None], (a + b).log()


def shifted_by_the_first(o_a, lse_a, o_b, lse_b):
    a, b = torch.ones_like(lse_a), (lse_b - lse_a).exp()
    return (a[..., None] * o_a + b[..., None] * o_b) / (a + b)[..., None], lse_a + (a + b).log()


def empty_is_nan(o_a, lse_a, o_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    return (lse_a - lse).exp()[..., None] * o_a + (lse_b - lse).exp()[..., None] * o_b, lse


def larger_only(o_a, lse_a, o_b, lse_b):
    return merge(o_a, lse_a, o_b, lse_b)[0], torch.maximum(lse_a, lse_b)


ANSWERS = {
    "07.a": (
        prefix_range,
        {
            lambda pid_m, prefix, *rest: prefix_range(pid_m, 0, *rest): "a prefix of whole tiles",
            lambda pid_m, prefix, length_q, length_k, BLOCK_M, BLOCK_N: (
                pid_m * BLOCK_M // BLOCK_N * BLOCK_N,
                max((pid_m + 1) * BLOCK_M - 1, prefix),
            ): "no prefix, blocks of 16",
            functools.partial(prefix_range, round_after=False): "ends within a tile",
            functools.partial(prefix_range, offset=False): "queries on a cache",
            functools.partial(prefix_range, clip=False): "hangs over",
        },
    ),
    "07.b": (
        alibi,
        {
            in_torch: "no kernel of yours was launched",
            functools.partial(alibi, CAUSAL=False): "slope 0: plain causal",
            functools.partial(alibi, FACTOR=-1.4426950408889634): "favours far keys",
            functools.partial(alibi, FACTOR=1.0): "too small by ln 2",
            functools.partial(alibi, LOCAL=True): "not from the tile's first",
            functools.partial(alibi, ONE_SLOPE=True): "each has its own slope",
        },
    ),
    "07.c": (
        merge,
        {
            mean: "each weighs as much as its sum",
            larger_only: "the logarithm of the joint sum",
            not_shifted: "scores near 2000",
            shifted_by_the_first: "the first part had no key",
            empty_is_nan: "neither part had a key",
        },
    ),
}
