"""Right and wrong answers to notebook 00's exercises."""

import torch
import triton
import triton.language as tl


@triton.jit
def scale_add_kernel(z_ptr, a, x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask)
    y = tl.load(y_ptr + offs, mask=mask)
    tl.store(z_ptr + offs, a * x + y, mask=mask)


@triton.jit
def unmasked_scale_add_kernel(z_ptr, a, x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(z_ptr + offs, a * tl.load(x_ptr + offs) + tl.load(y_ptr + offs))


@triton.jit
def first_block_kernel(z_ptr, a, x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask)
    y = tl.load(y_ptr + offs, mask=mask)
    tl.store(z_ptr + offs, a * x + y, mask=mask)


def scale_add(a, x, y, kernel=scale_add_kernel, BLOCK=1024, programs=None, output=torch.zeros_like):
    z, n = output(x), x.numel()
    kernel[(triton.cdiv(n, BLOCK) if programs is None else programs(n, BLOCK),)](z, a, x, y, n, BLOCK)
    return z


@triton.jit
def flip_kernel(z_ptr, x_ptr, n, FIRST: tl.constexpr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    tl.store(z_ptr + offs, tl.load(x_ptr + n - FIRST - offs, mask=mask), mask=mask)


@triton.jit
def flip_block_kernel(z_ptr, x_ptr, n, BLOCK: tl.constexpr):
    start = tl.program_id(0) * BLOCK
    lanes = tl.arange(0, BLOCK)
    last = tl.minimum(n, start + BLOCK) - 1
    mask = start + lanes < n
    tl.store(z_ptr + start + lanes, tl.load(x_ptr + last - lanes, mask=mask), mask=mask)


def flip(x, first=1, BLOCK=1024):
    z, n = torch.empty_like(x), x.numel()
    flip_kernel[(triton.cdiv(n, BLOCK),)](z, x, n, first, BLOCK)
    return z


def flip_in_blocks(x, BLOCK=1024):
    z, n = torch.empty_like(x), x.numel()
    flip_block_kernel[(triton.cdiv(n, BLOCK),)](z, x, n, BLOCK)
    return z


ANSWERS = {
    "00.a": (
        lambda n, itemsize: (3 * n * itemsize, 2 * n),
        {
            lambda n, itemsize: (2 * n, 3 * n * itemsize): "bytes first, then FLOPs",
            lambda n, itemsize: (4 * n * itemsize, 2 * n): "a is one number",
            lambda n, itemsize: (2 * n * itemsize, 2 * n): "z has to be written",
            lambda n, itemsize: (3 * n * itemsize, n): "an addition is one, too",
            lambda n, itemsize: (12 * n, 2 * n): "with itemsize",
        },
    ),
    "00.b": (
        scale_add,
        {
            lambda a, x, y: a * x + y: "no kernel of yours was launched",
            lambda a, x, y: scale_add(a, x, y, programs=int.__floordiv__, output=torch.empty_like): (
                "n = 64: no program wrote some elements"
            ),
            lambda a, x, y: scale_add(a, x, y, programs=int.__floordiv__): "how many programs does your grid have",
            lambda a, x, y: scale_add(1.0, x, y): "what is a multiplied with",
            lambda a, x, y: scale_add(a, x, y, unmasked_scale_add_kernel): "an access outside of a tensor",
            lambda a, x, y: scale_add(a, x, y, BLOCK=64, programs=lambda n, BLOCK: n // BLOCK): "partly filled",
            lambda a, x, y: scale_add(a, x, y, first_block_kernel, programs=lambda n, BLOCK: 1): "is pid in",
        },
    ),
    "00.c": (
        flip,
        {
            lambda x: x.flip(0): "no kernel of yours was launched",
            lambda x: scale_add(0.0, x, x): "nothing was reversed",
            lambda x: flip(x, first=0): "an access outside of a tensor",
            flip_in_blocks: "swap places",
        },
    ),
}
