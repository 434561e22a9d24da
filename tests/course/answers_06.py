"""Right and wrong answers to notebook 06's exercises."""

import functools

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import rotary_embedding


def to_interleaved(weight, D):
    return weight.unflatten(0, (-1, 2, D // 2)).transpose(1, 2).flatten(0, 2)


def forth(weight, D):
    return weight.unflatten(0, (-1, D // 2, 2)).transpose(1, 2).flatten(0, 2)


def columns_too(weight, D):
    order = [0, *range(2, weight.shape[-1], 2), *range(1, weight.shape[-1], 2)][: weight.shape[-1]]
    moved = to_interleaved(weight, D)
    return moved[:, order] if moved.dim() == 2 else moved


def two_axes(weight, D):
    heads, columns = len(weight) // D, weight.shape[1]
    return weight.view(heads, 2, D // 2, columns).transpose(1, 2).reshape(weight.shape)


def backward(dq, dk, cos, sin):
    return rotary_embedding(dq, dk, cos, -sin.roll(sin.shape[-1] // 2, -1))


def only_the_same_halves(dq, dk, cos, sin):
    return rotary_embedding(dq, dk, cos, -sin)


def k_forwards(dq, dk, cos, sin):
    return backward(dq, dk, cos, sin)[0], rotary_embedding(dq, dk, cos, sin)[1]


def over_positions(dq, dk, cos, sin):
    half = sin.shape[-1] // 2
    return rotary_embedding(dq, dk, cos, -(sin.roll(half, -1) if sin.dim() == 2 else sin.roll(half, 1)))


@triton.jit
def turn_neighbours_kernel(
    y_ptr,
    x_ptr,
    cos_ptr,
    sin_ptr,
    length,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    APART: tl.constexpr,
    STEP: tl.constexpr,
    SIGN: tl.constexpr,
    ROW: tl.constexpr,
    MASKED: tl.constexpr,
):
    position, head = tl.program_id(0), tl.program_id(1)
    offs_d = tl.arange(0, BLOCK_HALF)
    mask = (offs_d < HALF) | (not MASKED)
    offs = (head * length + position) * 2 * HALF + offs_d * STEP
    row = position
    if ROW == 1:
        row = head * length + position
    elif ROW == 2:
        row = head
    cos = tl.load(cos_ptr + row * HALF + offs_d, mask=mask)
    sin = tl.load(sin_ptr + row * HALF + offs_d, mask=mask) * SIGN
    a = tl.load(x_ptr + offs, mask=mask).to(tl.float32)
    b = tl.load(x_ptr + offs + APART, mask=mask).to(tl.float32)
    tl.store(y_ptr + offs, (a * cos - b * sin).to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(y_ptr + offs + APART, (b * cos + a * sin).to(y_ptr.dtype.element_ty), mask=mask)


def turn_neighbours(x, cos, sin, half_split=False, SIGN=1, ROW=0, MASKED=True, in_place=False, dtype=None):
    y, (heads, length, D) = x if in_place else torch.empty_like(x, dtype=dtype), x.shape
    apart, step = (D // 2, 1) if half_split else (1, 2)
    turn_neighbours_kernel[(length, heads)](
        y, x, cos, sin, length, D // 2, triton.next_power_of_2(D // 2), apart, step, SIGN, ROW, MASKED
    )
    return y


ANSWERS = {
    "06.a": (
        to_interleaved,
        {
            lambda weight, D: to_interleaved(weight, D).T: "the shape stays",
            lambda weight, D: weight: "the pairs are rows 0, 2 and rows 1, 3",
            columns_too: "columns stay where they are",
            forth: "section 4's direction",
            lambda weight, D: to_interleaved(weight, len(weight)): "each is permuted by itself",
            two_axes: "it raises IndexError",
        },
    ),
    "06.b": (
        backward,
        {
            lambda dq, dk, cos, sin: (dq * cos, dk * cos): "no kernel of yours was launched",
            lambda dq, dk, cos, sin: rotary_embedding(dq, dk, -cos, -sin): "nothing is turned, nothing is scaled",
            rotary_embedding: "that turns further",
            k_forwards: "dk is turned back as well",
            only_the_same_halves: "halves that differ",
            over_positions: "which axis is D",
        },
    ),
    "06.c": (
        turn_neighbours,
        {
            functools.partial(turn_neighbours, in_place=True): "the result is a new tensor",
            functools.partial(turn_neighbours, half_split=True): "pairs half a head apart",
            functools.partial(turn_neighbours, SIGN=-1): "that turns backwards",
            functools.partial(turn_neighbours, ROW=2): "each has its own row of cos and sin",
            functools.partial(turn_neighbours, ROW=1): "an access outside of a tensor",
            functools.partial(turn_neighbours, dtype=torch.float32): "fp16 in, fp16 out",
        },
    ),
}
