"""Exercises of notebook 01."""

import math
from collections.abc import Iterator

import torch

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw
from pytriton_llama.course.traffic import Traffic, traffic


@exercise("01.a", "bytes of a softmax that walks three times")
def three_walks(answer: Answer) -> Iterator[tuple[bool, str]]:
    """Bytes that a kernel loads and stores if it reads its rows for the maximum, for the sum and for the result."""
    moved = answer(1, 1, 4)
    yield isinstance(moved, (int, float)), "one number is asked for: bytes loaded plus bytes stored"
    yield not moved == 4 == answer(1, 1, 2), "those are elements: each has itemsize bytes"
    yield moved != 8, "that is the fused kernel, which reads a row once"
    yield moved != 12, "three walks read the row three times, and the result has to be written, too"
    yield moved <= 16, "maximum and sum stay in the program: nothing but the result is stored"
    yield moved == 16, "count the walks that load an element, and the stores"
    yield answer(3, 5, 2) == 120, "bytes grow with M, with N and with itemsize"


@exercise("01.b", "merge two halves of a row")
def merge(answer: Answer) -> Iterator[tuple[bool, str]]:
    def merged(a: torch.Tensor, b: torch.Tensor) -> bool:
        whole = torch.cat([a, b], dim=-1)
        merged_max, merged_sum = answer(*_maximum_and_sum(a), *_maximum_and_sum(b))
        return agrees((merged_max, merged_sum), _maximum_and_sum(whole.double()))

    draw = Draw(1)
    a, b = draw(5, 40), draw(5, 30)
    m, total = answer(*_maximum_and_sum(a), *_maximum_and_sum(b))
    largest = torch.cat([a, b], dim=-1).amax(-1).double()
    yield not agrees(total, largest), "m first, then l"
    yield agrees(m, largest), "m is the larger maximum"
    yield merged(a, b), "each sum was taken with its own maximum off; which factor brings it to the larger one?"
    yield merged(a + 300, b + 301), "far from 0 it overflows: only differences of maxima may meet an exp"
    yield merged(torch.full_like(a, -math.inf), b), "a half of −inf, (−inf, 0), should change nothing"
    empty = torch.full_like(a, -math.inf)
    yield merged(empty, empty), "both halves −inf: −inf − (−inf) is NaN, but the answer is (−inf, 0)"


def _maximum_and_sum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    m = x.amax(-1)
    return m, torch.exp(x - torch.where(m.isneginf(), 0.0, m)[..., None]).sum(-1)


@exercise("01.c", "a kernel for the log of the sum of exponentials")
def logsumexp(answer: Answer) -> Iterator[tuple[bool, str]]:
    def right(x: torch.Tensor) -> bool:
        return agrees(watched(answer, x), torch.logsumexp(x.double(), -1))

    x = Draw(1)(6, 64)
    yield tuple(watched(answer, x).shape) == (6,), "one number for each row: the result has shape (M,)"
    yield not agrees(answer(x), torch.logsumexp(x.double(), -1) / math.log(2)), "that is log₂ of the sum, not ln"
    yield right(x), "m + ln l, of each row's own maximum and sum"
    yield right(Draw(1)(6, 65)), "rows of 65: what do the lanes past the end of a row add to its sum?"
    yield right(x + 200), "numbers around 200: take off the row's maximum before exp, and put it back after ln"
    yield right(x - 200), "numbers around −200: take off the row's maximum, and nothing else"
    yield traffic(answer, x) == Traffic(loaded=4 * 6 * 64, stored=4 * 6), "load a row once, and store one number"
