"""Exercises of notebook 04."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw


@exercise("04.a", "what add_layer_norm costs")
def cost(answer: Answer) -> Iterator[tuple[bool, str]]:
    """(bytes, FLOPs) of layer_norm(x + residual) that also returns the sum."""
    matrices = answer(1000, 1000, 1)[0] // 10**6
    yield matrices != 5, "in one kernel the sum stays in registers: nobody has to read it back"
    yield matrices != 3, "the sum is returned, so it is written, too"
    yield matrices == 4, "which matrices are read, and which are written?"
    yield answer(1000, 1000, 1)[0] != 4 * 10**6, "weight and bias are read as well"
    yield answer(3, 10, 2)[0] == (4 * 30 + 20) * 2, "weight and bias are read once, for all rows; all in itemsize bytes"
    yield answer(3, 10, 2)[1] != 3 * 72, "the residual's addition is a FLOP for each element"
    yield answer(3, 10, 2)[1] == 3 * 82, "section 3 counts layer norm's FLOPs; add the new ones"


@exercise("04.b", "the merge backwards")
def unmerge(answer: Answer) -> Iterator[tuple[bool, str]]:
    """(n, mean, S) of a, from those of the whole and of b."""

    def moments(*numbers: float) -> tuple[int, float, float]:
        n = len(numbers)
        mean = sum(numbers) / n
        return n, mean, sum((number - mean) ** 2 for number in numbers)

    def close(actual: float, expected: float) -> bool:
        return abs(actual - expected) < 1e-9

    n, mean, S = answer(moments(5, 9, 10, 7, 9), moments(7, 9))  # (3, 8, 14) is left; means alike: δ is 0
    yield (n == 3 or 3 not in (mean, S)) and not close(S, 8), "n first, then the mean, then S"
    yield n == 3, "how many numbers are left?"
    yield S >= 0, "no sum of squares is negative: what is subtracted from what?"
    yield close(mean, 8) and close(S, 14), "even where both parts have the same mean: subtract sums, not means"
    n, mean, S = answer(moments(0, 4, 10), moments(10))
    yield close(mean, 2), "n · mean is a sum, and sums subtract: divide what is left by its own n"
    whole = moments(0, 4, 10)[2]
    yield not close(S, 2 * whole - 8), "the merge adds δ²'s term, so the way back takes it off"
    yield not close(S, whole), "the distance between the parts' means is a part of the whole's S"
    yield close(S, 8), "δ is the distance between the two parts' means, not from the whole's"
    n, mean, S = answer(moments(0, 4, 10, 12, 14), moments(10, 12, 14))
    yield n == 2 and close(mean, 2) and close(S, 8), "what are n_a, n_b and n in the factor of δ²?"


@exercise("04.c", "a group norm")
def group_norm(answer: Answer) -> Iterator[tuple[bool, str]]:
    draw = Draw(1)
    for M, N, groups, shift, plain, hint in (
        (3, 64, 1, 0.0, False, "with one group it is layer norm"),
        (1, 64, 4, 0.0, True, "each group has its own mean and variance (weight is 1 here, bias 0)"),
        (1, 64, 4, 0.0, False, "each group has its own stretch of weight and bias"),
        (3, 64, 4, 0.0, False, "from the second row on, weight and bias start again"),
        (3, 60, 3, 2.0, False, "a group's 20 are padded to 32: what is in the surplus lanes after the subtraction?"),
        (2, 6000, 2, 0.0, False, "does BLOCK_N follow the groups' size?"),
    ):
        x, weight, bias = draw(M, N) + shift, draw(N), draw(N)
        if plain:
            weight, bias = torch.ones_like(weight), torch.zeros_like(bias)
        expected = F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-5)
        yield agrees(watched(answer, x, weight, bias, groups), expected), f"{M} × {N} in {groups}: {hint}"
    x = torch.zeros_like(x)
    yield (
        agrees(watched(answer, x, weight, bias, groups), bias.double().expand(x.shape)),
        "a row of zeros: where is eps?",
    )
    x, weight, bias = (8000 + draw(3, 64, scale=2.0)).round(), draw(64), draw(64)
    expected = F.group_norm(x.double(), 4, weight.double(), bias.double(), 1e-5)
    yield (
        agrees(watched(answer, x, weight, bias, 4), expected),
        "whole numbers around 8000: E[x²] − E[x]² leaves nothing but rounding; take the mean off first",
    )
