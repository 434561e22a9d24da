"""Right and wrong answers to notebook 01's exercises."""

import torch
import triton
import triton.language as tl

from pytriton_llama.course import Traffic


def merge(m1, l1, m2, l2):
    m = torch.maximum(m1, m2)
    shift = torch.where(m.isneginf(), 0.0, m)
    return m, l1 * (m1 - shift).exp() + l2 * (m2 - shift).exp()


def merge_unscaled(m1, l1, m2, l2):
    return torch.maximum(m1, m2), l1 + l2


def merge_by_absolute_sums(m1, l1, m2, l2):
    m = torch.maximum(m1, m2)
    return m, (l1 * m1.exp() + l2 * m2.exp()) / m.exp()


def merge_unguarded(m1, l1, m2, l2):
    m = torch.maximum(m1, m2)
    return m, l1 * (m1 - m).exp() + l2 * (m2 - m).exp()


def merge_with_least(m1, l1, m2, l2):
    m = torch.minimum(m1, m2)
    return m, l1 * (m1 - m).exp() + l2 * (m2 - m).exp()


def merge_from_the_first(m1, l1, m2, l2):
    """Right as long as the first half has a maximum."""
    return torch.maximum(m1, m2), (l1 + l2 * (m2 - m1).exp()) * (m1 - torch.maximum(m1, m2)).exp()


@triton.jit
def logsumexp_kernel(
    y_ptr, x_ptr, N, OTHER: tl.constexpr, SHIFT: tl.constexpr, BASE_2: tl.constexpr, BLOCK_N: tl.constexpr
):
    row = tl.program_id(0)
    offs_n = tl.arange(0, BLOCK_N)
    x = tl.load(x_ptr + row * N + offs_n, mask=offs_n < N, other=OTHER)
    shift = 0.0
    if SHIFT == "maximum":
        shift = tl.max(x, axis=0)
    elif SHIFT == "maximum or 0":
        shift = tl.maximum(tl.max(x, axis=0), 0.0)
    total = tl.sum(tl.exp(x - shift), axis=0)
    if BASE_2:
        tl.store(y_ptr + row, shift * 1.4426950408889634 + tl.log2(total))
    else:
        tl.store(y_ptr + row, shift + tl.log(total))


@triton.jit
def twice_read_kernel(y_ptr, x_ptr, N, BLOCK_N: tl.constexpr):
    row = tl.program_id(0)
    offs_n = tl.arange(0, BLOCK_N)
    x_ptrs, mask = x_ptr + row * N + offs_n, offs_n < N
    row_max = tl.max(tl.load(x_ptrs, mask=mask, other=float("-inf")), axis=0)
    x = tl.load(x_ptrs, mask=mask, other=float("-inf"))
    tl.store(y_ptr + row, row_max + tl.log(tl.sum(tl.exp(x - row_max), axis=0)))


def logsumexp(x, other=float("-inf"), shift="maximum", base_2=False):
    y = torch.empty(len(x), device=x.device)
    BLOCK_N = triton.next_power_of_2(x.shape[1])
    logsumexp_kernel[(len(x),)](y, x, x.shape[1], other, shift, base_2, BLOCK_N)
    return y


def logsumexp_read_twice(x):
    y = torch.empty(len(x), device=x.device)
    twice_read_kernel[(len(x),)](y, x, x.shape[1], triton.next_power_of_2(x.shape[1]))
    return y


ANSWERS = {
    "01.a": (
        lambda M, N, itemsize: 4 * M * N * itemsize,
        {
            lambda M, N, itemsize: (3 * M * N * itemsize, M * N * itemsize): "one number is asked for",
            lambda M, N, itemsize: Traffic(3 * M * N * itemsize, M * N * itemsize): "bytes loaded plus bytes stored",
            lambda M, N, itemsize: 4 * M * N: "each has itemsize bytes",
            lambda M, N, itemsize: 2 * M * N * itemsize: "the fused kernel",
            lambda M, N, itemsize: 3 * M * N * itemsize: "has to be written",
            lambda M, N, itemsize: (4 * N + 2) * M * itemsize: "nothing but the result",
            lambda M, N, itemsize: 16 * M * N: "with itemsize",
        },
    ),
    "01.b": (
        merge,
        {
            lambda *halves: merge(*halves)[::-1]: "m first, then l",
            merge_with_least: "the larger maximum",
            merge_unscaled: "each sum was taken",
            merge_by_absolute_sums: "only differences",
            merge_from_the_first: "should change nothing",
            merge_unguarded: "both halves",
        },
    ),
    "01.c": (
        logsumexp,
        {
            lambda x: logsumexp(x)[:, None]: "has shape (M,)",
            lambda x: logsumexp(x, base_2=True): "log₂",
            lambda x: logsumexp(x, other=0.0): "past the end",
            lambda x: logsumexp(x, shift=""): "around 200",
            lambda x: logsumexp(x, shift="maximum or 0"): "around −200",
            logsumexp_read_twice: "load a row once",
            lambda x: torch.logsumexp(x, -1): "no kernel of yours was launched",
        },
    ),
}
