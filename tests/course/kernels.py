"""A right kernel to test the toolkit with, and wrong ones."""

import torch
import triton
import triton.language as tl


@triton.jit
def scale_kernel(y_ptr, x_ptr, n, BLOCK: tl.constexpr):
    """Twice x."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n  # the last block
    x = tl.load(x_ptr + offs, mask=mask)
    tl.store(y_ptr + offs, 2 * x, mask=mask)


@triton.jit
def scale_kernel_reformatted(
    y_ptr,
    x_ptr,
    n,
    BLOCK: tl.constexpr,
):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    # As the other one.
    x = tl.load(
        x_ptr + offs,
        mask=mask,
    )
    tl.store(y_ptr + offs, 2 * x, mask=mask)


@triton.jit
def unmasked_kernel(y_ptr, x_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs)
    tl.store(y_ptr + offs, 2 * x)


@triton.jit
def racing_kernel(y_ptr, x_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + tl.arange(0, BLOCK), tl.load(x_ptr + offs, mask=offs < n))


@triton.jit
def blind_kernel(y_ptr, x_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + offs, mask=offs < n)
    tl.store(y_ptr + offs, y, mask=offs < n)


def scale(x: torch.Tensor, kernel=scale_kernel, BLOCK: int = 32) -> torch.Tensor:
    y = torch.empty_like(x)
    kernel[(triton.cdiv(x.numel(), BLOCK),)](y, x, x.numel(), BLOCK)
    return y


def with_kernel(kernel):
    return lambda x: scale(x, kernel)
