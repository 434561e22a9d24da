"""Exercises of notebook 06."""

from collections.abc import Iterator

import torch

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw, device


@exercise("06.a", "from half-split to interleaved")
def to_interleaved(answer: Answer) -> Iterator[tuple[bool, str]]:
    """Rows of a projection's weight, head by head."""
    rows = torch.arange(4, device=device)[:, None].expand(4, 3)
    got = answer(rows, 4)
    yield got.shape == rows.shape, "one head of 4, 3 columns: the shape stays"
    yield torch.equal(got[:, 0], rows[[0, 2, 1, 3], 0]), "one head of 4: the pairs are rows 0, 2 and rows 1, 3"
    columns = torch.arange(24, device=device).view(4, 6)
    yield torch.equal(answer(columns, 4), columns[[0, 2, 1, 3]]), "whole rows move; columns stay where they are"
    rows = torch.arange(8, device=device)[:, None].expand(8, 3)
    got = answer(rows, 8)[:, 0].tolist()
    yield got != [0, 2, 4, 6, 1, 3, 5, 7], "that is section 4's direction: from interleaved to half-split"
    yield got == [0, 4, 1, 5, 2, 6, 3, 7], "one head of 8: number i is followed by number i + D/2"
    got = answer(torch.arange(16, device=device)[:, None].expand(16, 3), 8)[:, 0].tolist()
    yield got == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15], "two heads of 8: each is permuted by itself"
    bias = torch.arange(8, device=device)
    yield torch.equal(answer(bias, 4), bias[[0, 2, 1, 3, 4, 6, 5, 7]]), "a bias has one axis: its numbers are the rows"


def gradients(
    dq: torch.Tensor, dk: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """In float64, from the forward pass's formula."""

    def turned_back(dy: torch.Tensor) -> torch.Tensor:
        (low, high), (cos_low, cos_high), (sin_low, sin_high) = (t.double().chunk(2, -1) for t in (dy, cos, sin))
        return torch.cat((low * cos_low + high * sin_high, high * cos_high - low * sin_low), -1)

    return turned_back(dq), turned_back(dk)


@exercise("06.b", "the way back")
def backward(answer: Answer) -> Iterator[tuple[bool, str]]:
    """The gradients of q and k."""
    draw = Draw(6)
    dq, dk = draw(1, 2, 5, 16), draw(1, 1, 5, 16)
    angles = draw(5, 8).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    ones, zeros = torch.ones_like(cos), torch.zeros_like(cos)
    got = watched(answer, dq, dk, ones, zeros)
    yield agrees(got, (dq.double(), dk.double())), "all angles 0, so cos is 1: nothing is turned, nothing is scaled"
    got = watched(answer, dq, dk, cos, sin)
    yield not agrees(got, gradients(dq, dk, cos, -sin)), "that turns further; a gradient is turned back"
    yield agrees(got[0], gradients(dq, dk, cos, sin)[0]), "dq: what undoes a turn by an angle?"
    yield agrees(got, gradients(dq, dk, cos, sin)), "dk is turned back as well, with its own heads"
    cos, sin = draw(5, 16), draw(5, 16)
    got = watched(answer, dq, dk, cos, sin)
    yield (
        agrees(got, gradients(dq, dk, cos, sin)),
        "halves that differ: which half's sine took low into the upper result?",
    )
    cos, sin = draw(1, 5, 16), draw(1, 5, 16)
    got = watched(answer, dq, dk, cos, sin)
    yield agrees(got, gradients(dq, dk, cos[0], sin[0])), "tables (batch, length, D): which axis is D?"


def neighbours_turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.double()[..., 0::2], x.double()[..., 1::2]
    return torch.stack((a * cos.double() - b * sin.double(), b * cos.double() + a * sin.double()), -1).flatten(-2)


@exercise("06.c", "a kernel for neighbours")
def turn_neighbours(answer: Answer) -> Iterator[tuple[bool, str]]:
    """The interleaved layout, forward."""
    draw = Draw(7)

    def case(heads: int, length: int, head_dim: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
        angles = draw(length, head_dim // 2)
        return draw(heads, length, head_dim, dtype=dtype), angles.cos(), angles.sin()

    x, cos, sin = case(1, 1, 16)
    got, copy = watched(answer, x, cos, sin), x.clone()
    yield torch.equal(x, copy) and got.data_ptr() != x.data_ptr(), "x stays as it is: the result is a new tensor"
    half_split = neighbours_turned(x.view(1, 1, 2, 8).mT.flatten(-2), cos, sin).view(1, 1, 8, 2).mT.flatten(-2)
    yield not agrees(got, half_split), "those are pairs half a head apart; here 2i and 2i + 1 are a pair"
    yield not agrees(got, neighbours_turned(x, cos, -sin)), "that turns backwards: whose product has the minus?"
    yield agrees(got, neighbours_turned(x, cos, sin)), "one head, one position, 16 numbers: 8 pairs, 8 angles"
    for heads, length, head_dim, dtype, hint in (
        (1, 5, 16, torch.float32, "5 positions: each has its own row of cos and sin"),
        (3, 5, 16, torch.float32, "3 heads: all have the same angles at a position"),
        (3, 5, 20, torch.float32, "heads of 20: 10 pairs; a block has 16"),
        (3, 5, 16, torch.float16, "fp16"),
    ):
        case_ = case(heads, length, head_dim, dtype)
        got = watched(answer, *case_)
        yield agrees(got, neighbours_turned(*case_)), hint
    yield got.dtype == torch.float16, "fp16 in, fp16 out"
