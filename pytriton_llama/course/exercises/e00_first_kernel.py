"""Exercises of notebook 00."""

from collections.abc import Iterator

import torch

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw, device


@exercise("00.a", "what a·x + y costs")
def cost(answer: Answer) -> Iterator[tuple[bool, str]]:
    """(bytes, FLOPs) of z = a·x + y for n elements of ``itemsize`` bytes; a is a number."""
    moved, flops = answer(1, 4)
    yield moved >= flops, "bytes first, then FLOPs"
    yield moved != 16, "a is one number among the kernel's arguments: it isn't loaded for each element"
    yield moved != 8, "z has to be written, too"
    yield moved == 12, "list the tensors that are read and those that are written"
    yield flops != 1, "a product is a FLOP, and an addition is one, too"
    yield flops == 2, "count the arithmetic for one element"
    yield tuple(answer(1000, 2)) == (6000, 2000), "bytes grow with n and with itemsize, FLOPs with n alone"


@exercise("00.b", "a kernel for a·x + y")
def scale_add(answer: Answer) -> Iterator[tuple[bool, str]]:
    draw = Draw(1)
    z = watched(answer, 3.0, draw(64), draw(64))
    # Memory that nobody wrote to is NaN, or what the answer filled it with.
    written = not (z.isnan() | (z == 0)).any()
    yield written, "n = 64: no program wrote some elements: how many programs does your grid have?"
    for n, hint in (
        (64, "look at one element: what is a multiplied with?"),
        (1000, "the last block is partly filled: does every element belong to a program?"),
        (5000, "more elements than the block has: is pid in the offsets?"),
    ):
        x, y = draw(n), draw(n)
        yield agrees(watched(answer, 3.0, x, y), 3.0 * x.double() + y.double()), f"n = {n}: {hint}"


@exercise("00.c", "a kernel that reverses")
def flip(answer: Answer) -> Iterator[tuple[bool, str]]:
    x = torch.arange(10.0, device=device)
    z = watched(answer, x)
    yield not torch.equal(z, x), "nothing was reversed: which element of x belongs at z[0]?"
    yield torch.equal(z, x.flip(0)), "z[0] is x[n − 1] and z[1] is x[n − 2]: which element of x is z[i]?"
    x = Draw(1)(5000)
    yield torch.equal(watched(answer, x), x.flip(0)), "each block is reversed, but the blocks have to swap places, too"
