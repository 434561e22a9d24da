"""Right and wrong answers to notebook 03's exercises."""

import torch
import triton
import triton.language as tl
from torch.nn import functional as F


@triton.jit
def l2_norm_kernel(y_ptr, x_ptr, N, eps, MEAN: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr):
    offs_n = tl.arange(0, BLOCK_N)
    mask = offs_n < N
    offs = tl.program_id(0) * N + offs_n
    x = tl.load(x_ptr + offs, mask=mask, other=0.0)
    if WIDE:
        x = x.to(tl.float32)
    squares = tl.sum(x * x).to(tl.float32)
    if MEAN:
        squares = squares / N
    tl.store(y_ptr + offs, x * tl.rsqrt(squares + eps), mask=mask)


@triton.jit
def unmasked_l2_norm_kernel(y_ptr, x_ptr, N, eps, MEAN: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr):
    offs = tl.program_id(0) * N + tl.arange(0, BLOCK_N)
    x = tl.load(x_ptr + offs).to(tl.float32)
    tl.store(y_ptr + offs, x * tl.rsqrt(tl.sum(x * x) + eps))


def l2_norm(x, kernel=l2_norm_kernel, eps=1e-30, MEAN=False, WIDE=True, programs=None):
    y, (M, N) = torch.zeros_like(x), x.shape
    kernel[(programs or M,)](y, x, N, eps, MEAN, WIDE, triton.next_power_of_2(N))
    return y


@triton.jit
def gemma_norm_kernel(
    y_ptr,
    x_ptr,
    weight_ptr,
    N,
    count,
    eps,
    ONE: tl.constexpr,
    WIDE: tl.constexpr,
    EARLY: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    offs_n = tl.arange(0, BLOCK_N)
    mask = offs_n < N
    offs = tl.program_id(0) * N + offs_n
    x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + offs_n, mask=mask, other=0.0)
    if WIDE:
        weight = weight.to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x) / count + eps)
    if EARLY:
        normed = normed.to(y_ptr.dtype.element_ty).to(tl.float32)
    tl.store(y_ptr + offs, normed * (weight + ONE), mask=mask)


def gemma_norm(x, weight, eps=1e-6, ONE=1.0, WIDE=True, EARLY=False, PADDED=False):
    y, (M, N) = torch.empty_like(x), x.shape
    BLOCK_N = triton.next_power_of_2(N)
    gemma_norm_kernel[(M,)](y, x, weight, N, BLOCK_N if PADDED else N, eps, ONE, WIDE, EARLY, BLOCK_N)
    return y


def last_norm(separate, fused):
    """Bytes of so many tensors, and a weight."""
    return lambda M, N, itemsize: ((separate * M * N + N) * itemsize, (fused * M * N + N) * itemsize)


ANSWERS = {
    "03.a": (
        last_norm(5, 3),
        {
            last_norm(4, 3): "between two kernels the sum goes to memory",
            last_norm(5, 4): "must it be written",
            lambda M, N, itemsize: (6 * M * N * itemsize, 4 * M * N * itemsize): "whatever M is",
            lambda M, N, itemsize: (5 * M * N + N, 3 * M * N + N): "grow with itemsize",
        },
    ),
    "03.b": (
        l2_norm,
        {
            lambda x: F.normalize(x, dim=-1): "no kernel of yours was launched",
            lambda x: l2_norm(x, eps=1e-6): "numbers about 1e-6",
            lambda x: l2_norm(x, MEAN=True): "√64 too large",
            lambda x: l2_norm(x, programs=1): "which row is a program's",
            lambda x: l2_norm(x, unmasked_l2_norm_kernel): "a race",
            lambda x: l2_norm(x, WIDE=False): "where do the squares end",
            lambda x: l2_norm(x, eps=0.0): "what is 0 divided by 0",
        },
    ),
    "03.c": (
        gemma_norm,
        {
            lambda x, weight: F.rms_norm(x, x.shape[-1:], 1 + weight, 1e-6): "no kernel of yours was launched",
            lambda x, weight: gemma_norm(x, weight, ONE=0.0): "the stored weight lacks a 1",
            lambda x, weight: gemma_norm(x, weight, eps=1e-2): "mean of squares, eps, root",
            lambda x, weight: gemma_norm(x, weight, PADDED=True): "the mean is over 100",
            lambda x, weight: gemma_norm(x, weight, EARLY=True): "as Llama does",
            lambda x, weight: gemma_norm(x, weight, WIDE=False): "1 + weight was rounded",
        },
    ),
}
