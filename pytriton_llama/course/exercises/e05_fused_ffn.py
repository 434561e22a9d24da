"""Exercises of notebook 05."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from pytriton_llama import reference
from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw, device


@exercise("05.a", "bytes around a packed weight")
def packed(answer: Answer) -> Iterator[tuple[bool, str]]:
    """(bytes of one product by a packed weight and silu · mul, bytes of swiglu)."""

    def bytes_of(M: int, N: int, K: int) -> int:
        return answer(M, N, K, 1)[0]

    parts, fused = answer(1, 1, 10**6, 1)
    yield parts != 4 * 10**6 + 5, "one product loads x once"
    yield parts // 10**6 == 3, "M = 1, N = 1, K = 1,000,000: one row of x, and two of the packed weight"
    tokens = bytes_of(10**6, 1, 1) // 10**6
    yield tokens != 5, "silu · mul reads what the product has written"
    yield tokens != 4, "silu · mul writes its result"
    yield tokens == 6, "for each token: x; both halves written, read again; the result"
    yield bytes_of(1, 10**6, 1) // 10**6 == 7, "for each column: two rows of the weight, and again those five"
    yield fused != parts, "swiglu's products stay in registers"
    yield fused // 10**6 == 3, "swiglu reads x once, too"
    yield answer(3, 5, 7, 2) == ((21 + 70 + 75) * 2, (21 + 70 + 15) * 2), "M = 3, N = 5, K = 7, 2 bytes each"


@exercise("05.b", "a kernel for GeGLU")
def geglu(answer: Answer) -> Iterator[tuple[bool, str]]:
    """gelu_tanh(x @ gate_weight.T) * (x @ up_weight.T)."""
    draw = Draw(1)

    def oracle(x, gate_weight, up_weight, *, gate=lambda z: F.gelu(z, approximate="tanh")):
        x, gate_weight, up_weight = x.double(), gate_weight.double(), up_weight.double()
        return gate(x @ gate_weight.T) * (x @ up_weight.T)

    def inputs(M: int, N: int, K: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
        weights = (draw(N, K, scale=K**-0.5, dtype=dtype) for _ in range(2))
        return draw(M, K, dtype=dtype), *weights

    first = inputs(16, 32, 32)
    y = watched(answer, *first)
    yield not agrees(y, oracle(*first, gate=F.silu)), "that is silu's curve"
    yield not agrees(y, oracle(first[0], first[2], first[1])), "the activation goes on gate, not on up"
    yield not agrees(y, oracle(*first, gate=F.gelu)), "GELU by the error function; Gemma's is the tanh form"
    yield agrees(y, oracle(*first)), "16 tokens, weights of 32 × 32"
    for sizes, hint in (
        ((70, 80, 64), "several tiles"),
        ((5, 33, 64), "neither 5 nor 33 is a block's size: what does the mask say?"),
        ((16, 32, 45), "45 is no multiple of a block: is there a last step, with zeros past K?"),
    ):
        given = inputs(*sizes)
        yield agrees(watched(answer, *given), oracle(*given)), f"{sizes[0]} tokens, weights of {sizes[1:]}: {hint}"
    half = inputs(16, 32, 64, torch.float16)
    yield agrees(watched(answer, *half), oracle(*half).half()), "fp16"
    # gate is −71680, which fp16 has not: gelu of it is 0, of −∞ it is NaN.
    large = [torch.full((16, 64), value, dtype=torch.float16, device=device) for value in (32.0, -35.0, 0.01)]
    yield agrees(watched(answer, *large), oracle(*large)), "fp16, large sums: they must stay in 32 bits"


@exercise("05.c", "dropout's backward pass")
def dropout_backward(answer: Answer) -> Iterator[tuple[bool, str]]:
    """dy where the forward pass kept the element, divided by 1 − p; 0 elsewhere."""

    def kept(shape: tuple[int, ...], p: float, seed: int) -> torch.Tensor:
        numbers = reference.philox_uniform(seed, torch.Size(shape).numel())
        return (numbers >= p).view(shape).to(device)

    ones, p = torch.ones(1, 16, device=device), 0.25
    dx = watched(answer, ones, p, 7)
    where = kept((1, 16), p, 7).double()
    yield not agrees(dx, 1 - where) and not agrees(dx, (1 - where) / (1 - p)), "0 is where the element was dropped"
    yield not agrees(dx, where), "what was kept was divided by 1 − p, and so is its gradient"
    yield not agrees(dx, where / p), "divided by 1 − p, not by p"
    yield agrees(dx, where / (1 - p)), "16 elements, p = 0.25, seed 7"
    draw = Draw(1)
    for shape, seed, hint in (
        ((1, 16), 8, "another seed drops others"),
        ((1, 5000), 7, "an element's number comes from its index in the whole tensor"),
        ((70, 90), 7, "rows go on counting where the row before ended"),
    ):
        dy = draw(*shape)
        expected = dy.double() * kept(shape, p, seed) / (1 - p)
        yield agrees(watched(answer, dy, p, seed), expected), f"{shape[0]} × {shape[1]}: {hint}"
