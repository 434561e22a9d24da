"""Where counts end: more logits than 2³¹, more sequences than a grid has rows, a row of about 2³¹ columns."""

import multiprocessing

import pytest
import torch

from pytriton_llama import kernels, reference
from tests.kernels.test_next_token import FIELDS, state
from tests.tolerances import assert_close
from tests.torture.huge import BEYOND, check, need_memory, randn, some

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def freed():
    torch.manual_seed(1337)
    yield
    torch.cuda.empty_cache()


def next_tokens(batch: int, V: int) -> None:
    """A step of ``next_token``, most of it greedy, against the oracle."""
    at = {0: 1.0, batch - 1: 0.7}
    values = {
        "temperature": [at.get(b, 0.0) for b in range(batch)], "seeds": range(batch), "lengths": [3] * batch,
        "limits": [9] * batch, "running": [1] * batch, "stop_tokens": [5], "tokens": [[9] * batch] * 2,
        "steps": [0] * batch,
    }  # fmt: skip
    ours, theirs = (state("cuda", **values) for _ in range(2))
    logits, embedding = randn(batch, V), randn(V, 8)
    x, expected_x = (torch.full((batch, 8), torch.nan, dtype=logits.dtype, device="cuda") for _ in range(2))
    kernels.next_token(logits, **ours, embedding=embedding, x=x)
    reference.next_token(logits, **theirs, embedding=embedding, x=expected_x)
    for name in FIELDS:
        assert torch.equal(ours[name], theirs[name]), name
    assert torch.equal(x, expected_x)


def test_logits():
    """Catches a sequence's logits at an offset of 32 bits."""
    need_memory(25)
    next_tokens(16_400, 131_072)


def test_more_sequences_than_a_grid_has_rows():
    """Catches a batch as a grid's second dimension, of which CUDA takes 65535."""
    next_tokens(70_000, 97)
    q, k, cos = randn(70_000, 2, 3, 16), randn(70_000, 1, 3, 16), randn(3, 16, dtype=torch.float32)
    turned = kernels.rotary_embedding(q, k, cos, cos)
    check(tuple(t[-9:] for t in turned), "rotary_embedding", q[-9:], k[-9:], cos, cos)


def row_of(N: int) -> None:
    """A single row of N columns, by sums in float64 of a piece at a time. Runs in a process of its own."""
    torch.manual_seed(1337)
    x, weight = randn(1, N), randn(N)

    def total(f) -> torch.Tensor:
        return sum(f(piece.double()).sum() for piece in x[0].split(1 << 26))

    at = some(N)
    few, w, top = x[:, at].double(), weight[at].double(), x.max().double()
    for name, others, expected in (
        ("softmax", (), lambda: (few - top).exp() / total(lambda t: (t - top).exp())),
        ("rms_norm", (weight,), lambda: few * (total(torch.square) / N + 1e-6).rsqrt() * w),
    ):
        ours = getattr(kernels, name)(x, *others)
        assert_close(ours[:, at], expected())
        del ours
    mean = total(lambda t: t) / N
    scale = (total(lambda t: (t - mean).square()) / N + 1e-5).rsqrt()
    assert_close(kernels.layer_norm(x, weight, weight)[:, at], (few - mean) * scale * w + w)
    up = weight.expand(2, N)
    gate = randn(2, N)
    check(kernels.silu_mul(gate, up)[:, at], "silu_mul", gate[:, at], up[:, at])


@pytest.mark.parametrize("N", [BEYOND - (1 << 16) - 8, BEYOND + 8])
def test_a_row_as_long_as_numbers_go(N):
    """Catches a column's number that passes 2³¹ in a row's last block, and a loop that therefore never ends: such a
    program may take the context with it, so that it has a process of its own."""
    need_memory(28)
    process = multiprocessing.get_context("spawn").Process(target=row_of, args=(N,))
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0, "see the traceback above; −9: it ran for more than two minutes"
