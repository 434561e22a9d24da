"""Right and wrong answers to notebook 04's exercises."""

import functools

import torch
import triton
import triton.language as tl
from torch.nn import functional as F


def unmerge(whole, b):
    (n, mean, S), (n_b, mean_b, S_b) = whole, b
    n_a = n - n_b
    mean_a = (n * mean - n_b * mean_b) / n_a
    return n_a, mean_a, S - S_b - (mean_b - mean_a) ** 2 * n_a * n_b / n


def without_between(whole, b):
    n_a, mean_a, _ = unmerge(whole, b)
    return n_a, mean_a, whole[2] - b[2]


def between_added(whole, b):
    n_a, mean_a, S_a = unmerge(whole, b)
    return n_a, mean_a, 2 * (whole[2] - b[2]) - S_a


def from_the_wholes_mean(whole, b):
    n_a, mean_a, _ = unmerge(whole, b)
    return n_a, mean_a, whole[2] - b[2] - (b[1] - whole[1]) ** 2 * n_a * b[0] / whole[0]


def means_subtracted(whole, b):
    n_a, _, S_a = unmerge(whole, b)
    return n_a, whole[1] - b[1], S_a


def mean_over_the_whole(whole, b):
    n_a = unmerge(whole, b)[0]
    # Where the means agree it is the whole's, else its share is divided by the whole's n.
    same = whole[1] == b[1]
    mean = whole[1] if same else (whole[0] * whole[1] - b[0] * b[1]) / whole[0]
    return n_a, mean, whole[2] - b[2] - (b[1] - mean) ** 2 * n_a * b[0] / whole[0]


def halves(whole, b):
    """Right as long as b is one number."""
    n_a, mean_a, _ = unmerge(whole, b)
    return n_a, mean_a, whole[2] - b[2] - (b[1] - mean_a) ** 2 * n_a / whole[0]


@triton.jit
def group_norm_kernel(
    y_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    N,
    groups,
    eps,
    BLOCK_N: tl.constexpr,
    ZEROED: tl.constexpr,
    WRAP: tl.constexpr,
    ONE_PASS: tl.constexpr,
):
    pid = tl.program_id(0)
    offs_n = tl.arange(0, BLOCK_N)
    mask = offs_n < N
    x = tl.load(x_ptr + pid * N + offs_n, mask=mask, other=0.0)
    centred = x - tl.sum(x) / N
    if ZEROED:
        centred = tl.where(mask, centred, 0.0)
    variance = tl.sum(centred * centred) / N
    if ONE_PASS:
        mean = tl.sum(x) / N
        variance = tl.sum(x * x) / N - mean * mean
    scale = tl.rsqrt(variance + eps)
    if WRAP == 1:
        channels = pid % groups * N + offs_n
    elif WRAP == 2:  # the same weights for every stretch
        channels = offs_n
    else:  # past their end from the second row on
        channels = pid * N + offs_n
    weight = tl.load(weight_ptr + channels, mask=mask)
    bias = tl.load(bias_ptr + channels, mask=mask)
    tl.store(y_ptr + pid * N + offs_n, centred * scale * weight + bias, mask=mask)


def group_norm(x, weight, bias, groups, eps=1e-5, ZEROED=True, WRAP=1, ONE_PASS=False):
    (M, columns), y = x.shape, torch.empty_like(x)
    N = columns // groups
    BLOCK_N = triton.next_power_of_2(N)
    group_norm_kernel[(M * groups,)](y, x, weight, bias, N, groups, eps, BLOCK_N, ZEROED, WRAP, ONE_PASS)
    return y


ANSWERS = {
    "04.a": (
        lambda M, N, itemsize: ((4 * M * N + 2 * N) * itemsize, M * (8 * N + 2)),
        {
            lambda M, N, itemsize: ((3 * M * N + 2 * N) * itemsize, M * (8 * N + 2)): "the sum is returned",
            lambda M, N, itemsize: ((5 * M * N + 2 * N) * itemsize, M * (8 * N + 2)): "nobody has to read it back",
            lambda M, N, itemsize: (4 * M * N * itemsize, M * (8 * N + 2)): "weight and bias are read as well",
            lambda M, N, itemsize: ((4 * M * N + 2 * N) * itemsize, M * (7 * N + 2)): "the residual's addition",
            lambda M, N, itemsize: ((4 * M * N + N) * itemsize, M * (8 * N + 2)): "once, for all rows",
        },
    ),
    "04.b": (
        unmerge,
        {
            lambda whole, b: unmerge(whole, b)[::-1]: "n first, then the mean",
            lambda whole, b: [unmerge(whole, b)[i] for i in (0, 2, 1)]: "the mean, then S",
            lambda whole, b: (*unmerge(whole, b)[:2], -unmerge(whole, b)[2]): "no sum of squares is negative",
            between_added: "the way back takes it off",
            lambda whole, b: (whole[0], *unmerge(whole, b)[1:]): "how many numbers are left",
            means_subtracted: "subtract sums, not means",
            mean_over_the_whole: "divide what is left by its own n",
            without_between: "a part of the whole's S",
            from_the_wholes_mean: "not from the whole's",
            halves: "what are n_a, n_b and n",
        },
    ),
    "04.c": (
        group_norm,
        {
            lambda x, weight, bias, groups: F.group_norm(x, groups, weight, bias): "no kernel of yours was launched",
            functools.partial(group_norm, ONE_PASS=True): "leaves nothing but rounding",
            lambda x, weight, bias, groups: group_norm(x, weight, bias, 1): "each group has its own mean",
            functools.partial(group_norm, WRAP=2): "its own stretch of weight",
            functools.partial(group_norm, WRAP=0): "an access outside of a tensor",
            functools.partial(group_norm, eps=0.0): "where is eps",
            functools.partial(group_norm, ZEROED=False): "what is in the surplus lanes",
            lambda x, weight, bias, groups: group_norm(x - x, weight, bias, groups): "with one group it is layer norm",
        },
    ),
}
