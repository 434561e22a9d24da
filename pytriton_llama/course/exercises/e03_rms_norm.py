"""Exercises of notebook 03."""

from collections.abc import Iterator

import torch

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw, device


@exercise("03.a", "bytes of the last norm")
def last_norm_bytes(answer: Answer) -> Iterator[tuple[bool, str]]:
    """(separate, fused) bytes of sum = x + residual and its norm, where nobody reads the sum afterwards."""
    M, N = 30, 100
    moved = answer(M, N, 1)
    yield all(bytes_ % (M * N) == N for bytes_ in moved), "besides whole tensors, the weight: N numbers, whatever M is"
    separate, fused = (bytes_ // (M * N) for bytes_ in moved)
    yield separate != 4, "between two kernels the sum goes to memory and comes back"
    yield separate == 5, "the addition moves three tensors; the norm two and the weight"
    yield fused != 4, "nobody reads the sum of the last layer: must it be written?"
    yield fused == 3, "fused: x, the residual and the weight come in. What goes out?"
    yield tuple(answer(8, 16, 2)) == (2 * (5 * 128 + 16), 2 * (3 * 128 + 16)), "bytes grow with itemsize"


def l2_oracle(x: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    return wide / wide.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-30)


@exercise("03.b", "a kernel for the L2 norm")
def l2_norm(answer: Answer) -> Iterator[tuple[bool, str]]:
    draw = Draw(3)
    x = draw(1, 64)
    y = watched(answer, x)
    root = 8.0  # √64
    yield not agrees(y, root * l2_oracle(x)), "√64 too large: that divides by the root of the mean, not of the sum"
    yield agrees(y, l2_oracle(x)), "one row of 64: sum of squares, root, division"
    x = draw(5, 100)
    yield (
        agrees(watched(answer, x), l2_oracle(x)),
        "5 rows of 100: which row is a program's, and what do masked lanes add?",
    )
    x = (300 + draw(3, 100)).half()
    yield agrees(watched(answer, x), l2_oracle(x)), "fp16, about 300: where do the squares end?"
    x = torch.zeros(2, 100, device=device)
    yield agrees(watched(answer, x), x.double()), "a row of zeros: what is 0 divided by 0?"
    x = draw(2, 100, scale=1e-6)
    yield agrees(watched(answer, x), l2_oracle(x)), "numbers about 1e-6: is eps small beside the sum of their squares?"


def gemma_oracle(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """In at least float32, not rounded."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * (1 + weight.to(wide.dtype))


def mostly_equal(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Bit for bit, but for roundings that the last bit of a root flips."""
    return bool((actual != expected).float().mean() < 0.01)


@exercise("03.c", "a kernel for Gemma's norm")
def gemma_norm(answer: Answer) -> Iterator[tuple[bool, str]]:
    draw = Draw(4)
    x, weight = draw(1, 64), draw(64, scale=0.3)
    y = watched(answer, x, weight)
    yield not agrees(y, gemma_oracle(x.double(), weight.double() - 1)), "that is Llama's: the stored weight lacks a 1"
    yield agrees(y, gemma_oracle(x.double(), weight.double())), "one row of 64: mean of squares, eps, root, 1 + weight"
    x, weight = draw(5, 100), draw(100, scale=0.3)
    y = watched(answer, x, weight)
    yield (
        agrees(y, gemma_oracle(x.double(), weight.double())),
        "5 rows of 100: all rows share a weight; the mean is over 100",
    )
    x, weight = draw(64, 512, dtype=torch.float16), draw(512, dtype=torch.float16, scale=0.01)
    y = watched(answer, x, weight)
    unweighted = gemma_oracle(x, torch.zeros_like(weight))
    llama = (unweighted.half().float() * (1 + weight.float())).half()
    yield not mostly_equal(y, llama), "fp16: Gemma doesn't round before the weight, as Llama does"
    short = (unweighted * (1 + weight).float()).half()
    yield not mostly_equal(y, short), "fp16: 1 + weight was rounded to 16 bits before it was used"
    yield mostly_equal(y, gemma_oracle(x, weight).half()), "fp16: all in 32 bits, and one rounding at the end"
