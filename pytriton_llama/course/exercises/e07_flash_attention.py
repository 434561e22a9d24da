"""Exercises of notebook 07."""

from collections.abc import Iterator

import torch

from pytriton_llama import reference
from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw, device


def prefix_mask(prefix: int, length_q: int, length_k: int) -> torch.Tensor:
    """(length_q, length_k): whether query i sees key j."""
    positions = torch.arange(length_q)[:, None] + length_k - length_q
    keys = torch.arange(length_k)
    return (keys <= positions) | (keys < prefix)


def best_range(pid_m: int, prefix: int, length_q: int, length_k: int, BLOCK_M: int, BLOCK_N: int) -> tuple[int, int]:
    """(stop_full, stop) from the mask itself; a block that hangs over counts the queries that it would have."""
    rows = prefix_mask(prefix, length_q, length_k)[pid_m * BLOCK_M : (pid_m + 1) * BLOCK_M]
    return int(rows.all(0).sum()) // BLOCK_N * BLOCK_N, int(rows.any(0).sum())


@exercise("07.a", "a prefix that all see")
def prefix_range(answer: Answer) -> Iterator[tuple[bool, str]]:
    """Where a block of queries stops."""

    def right(hint: str, *cases: tuple[int, ...]) -> tuple[bool, str]:
        for case in cases:
            got, best = tuple(answer(*case)), best_range(*case)
            if got != best:
                words = "(pid_m, prefix, length_q, length_k, BLOCK_M, BLOCK_N)"
                return False, f"{hint}; {words} = {case}: (stop_full, stop) is not {got}"
        return True, ""

    yield right("no prefix, blocks of 16: section 11's ranges", (0, 0, 64, 64, 16, 16), (3, 0, 64, 64, 16, 16))
    yield right(
        "a prefix of whole tiles, before and behind the diagonal", (0, 32, 64, 64, 16, 16), (3, 32, 64, 64, 16, 16)
    )
    yield right("the prefix ends within a tile", (0, 40, 64, 64, 16, 16), (1, 20, 64, 64, 16, 16))
    yield right("queries on a cache: positions", (0, 40, 32, 96, 16, 16), (1, 90, 32, 96, 16, 16))
    yield right("the last block hangs over: no key past the last one", (1, 0, 20, 20, 16, 16), (1, 50, 50, 50, 32, 16))
    yield right(
        "any shape",
        *(
            (pid_m, prefix, length_q, length_k, BLOCK_M, BLOCK_N)
            for length_q, length_k in ((70, 70), (33, 100), (1, 50))
            for prefix in (0, 1, 17, 48, 49, min(90, length_k))
            for BLOCK_M, BLOCK_N in ((16, 16), (16, 32), (32, 16))
            for pid_m in range(-(-length_q // BLOCK_M))
            if prefix <= length_k
        ),
    )


def with_slopes(qkv: tuple[torch.Tensor, ...], slopes: torch.Tensor) -> torch.Tensor:
    """In float64, from the formula."""
    q, k, v, slopes = (t.double() for t in (*qkv, slopes))
    distance = torch.arange(q.shape[2], device=q.device)[:, None] - torch.arange(k.shape[2], device=q.device)
    scores = q @ k.mT * q.shape[3] ** -0.5 - slopes[:, None, None] * distance
    return torch.softmax(scores.masked_fill(distance < 0, float("-inf")), -1) @ v


@exercise("07.b", "a score that knows distance")
def alibi(answer: Answer) -> Iterator[tuple[bool, str]]:
    """Attention with linear biases."""
    draw = Draw(8)

    def case(heads: int, length: int, head_dim: int = 16) -> tuple[torch.Tensor, ...]:
        return tuple(draw(1, heads, length, head_dim) for _ in range(3))

    given = case(1, 32)
    got = watched(answer, *given, torch.zeros(1, device=device))
    yield got.shape == given[0].shape and got.dtype == torch.float32, "o is like q"
    yield agrees(got, with_slopes(given, torch.zeros(1, device=device))), "slope 0: plain causal attention"
    slope = torch.tensor([0.25], device=device)
    got = watched(answer, *given, slope)
    yield (
        not agrees(got, with_slopes(given, -slope)),
        "that favours far keys: slope · distance is taken *from* the score",
    )
    yield (
        not agrees(got, with_slopes(given, slope * 0.6931471805599453)),
        "the slope is too small by ln 2: the scores carry log₂ e, does it?",
    )
    yield agrees(got, with_slopes(given, slope)), "one head of 32 tokens, slope ¼"
    given = case(1, 96)
    yield (
        agrees(watched(answer, *given, slope), with_slopes(given, slope)),
        "96 tokens: distance counts from key 0, not from the tile's first",
    )
    given, slopes = case(3, 64), torch.tensor([0.5, 0.25, 0.0625], device=device)
    yield agrees(watched(answer, *given, slopes), with_slopes(given, slopes)), "3 heads: each has its own slope"
    given = case(2, 64, 32)
    yield agrees(watched(answer, *given, slopes[:2]), with_slopes(given, slopes[:2])), "head_dim 32"


@exercise("07.c", "two parts of the keys")
def merge(answer: Answer) -> Iterator[tuple[bool, str]]:
    """The log-sum-exp merge."""
    draw = Draw(9)
    q, k, v = (draw(1, 2, length, 16).double() for length in (10, 30, 30))

    def parts(cut: int, shift: float = 0.0) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, torch.Tensor]]:
        each = []
        for keys in (slice(0, cut), slice(cut, 30)):
            o, lse = reference.flash_attention(q, k[:, :, keys], v[:, :, keys], return_lse=True)
            each += [o, lse.double() + shift]
        o, lse = reference.flash_attention(q, k, v, return_lse=True)
        return tuple(each), (o, lse.double() + shift)

    def close(got: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor]) -> list[bool]:
        return [torch.allclose(a.double(), b, rtol=1e-4, atol=1e-5) for a, b in zip(got, wanted, strict=True)]

    given, wanted = parts(15)
    got = answer(*given)
    yield close(got, wanted)[0], "two halves, o: each weighs as much as its sum, e^lse, of both sums"
    yield close(got, wanted)[1], "two halves, lse: the logarithm of the joint sum"
    given, wanted = parts(3)
    yield all(close(answer(*given), wanted)), "3 keys and 27"
    given, wanted = parts(15, 2000.0)
    yield all(close(answer(*given), wanted)), "scores near 2000: e^lse is infinite; shift by the larger"
    given, wanted = parts(15, -2000.0)
    yield all(close(answer(*given), wanted)), "scores near −2000: e^lse is 0; shift by the larger"
    given, wanted = parts(0)
    yield all(close(answer(*given), wanted)), "the first part had no key: o 0, lse −∞, weight 0"
    given, wanted = parts(30)
    yield all(close(answer(*given), wanted)), "the second part had no key"
    zero, nothing = torch.zeros_like(q), torch.full(q.shape[:3], float("-inf"), dtype=q.dtype, device=q.device)
    got = answer(zero, nothing, zero, nothing)
    yield bool((got[0] == 0).all() and (got[1] == nothing).all()), "neither part had a key: 0 and −∞, not NaN"
