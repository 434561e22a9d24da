"""Tensors whose elements lie more than 2³¹ apart: little memory is touched, but offsets need 64 bits."""

from contextlib import nullcontext

import pytest
import torch

from pytriton_llama import interpreter, kernels, reference
from pytriton_llama.interpreter import trace
from pytriton_llama.runtime import interpreted
from tests.kernels.test_next_token import state
from tests.tolerances import assert_close

STEP = 1 << 30  # elements; the third row starts at 2³¹


@pytest.fixture
def far(randn, tmp_path):
    """Random numbers in float16 whose dimension ``dim`` has a stride of ``step``: a file that is nearly all holes."""
    if not interpreted():
        pytest.skip("takes as much memory as it reserves")

    def make(*shape: int, dim: int = 0, step: int = STEP) -> torch.Tensor:
        values, file = randn(*shape, dtype=torch.float16), tmp_path / "holes"
        memory = torch.from_file(str(file), True, step * shape[dim] + values.numel(), dtype=torch.float16)
        file.unlink()
        strides = [step if d == dim else stride for d, stride in enumerate(values.stride())]
        return memory.as_strided(shape, strides).copy_(values)

    return make


def check(op: str, *inputs, **options) -> None:
    # Traced where it can be: an offset that wraps around is named before it is used.
    with trace(races=False, uninitialized=False) if interpreter.enabled() else nullcontext():
        ours = getattr(kernels, op)(*inputs, **options)
    wide = [t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in inputs]
    oracle = getattr(reference, op)(*wide, **options)
    for actual, expected in zip(*(r if isinstance(r, tuple) else (r,) for r in (ours, oracle)), strict=True):
        assert_close(actual, expected, expected.abs().amax())


@pytest.mark.parametrize(("shape", "dim"), [((3, 40), 0), ((3, 33_000), 0), ((5, 3), 1)])
def test_rows(shape, dim, far, randn):
    """Catches a row's or a column's number multiplied by its stride in 32 bits, be rows one block or walked."""
    x, residual, weight = far(*shape, dim=dim), far(*shape, dim=dim), randn(shape[1], dtype=torch.float16)
    check("softmax", x)
    check("rms_norm", x, weight)
    check("add_rms_norm", x, residual, weight)
    check("layer_norm", x, weight, weight)
    check("silu_mul", x, residual)


def test_products(far, randn):
    """Catches rows of x, of the weight or of the residual at offsets of 32 bits."""
    check("linear", far(3, 40), far(3, 40), None, None, far(3, 3))
    check("linear", far(5, 3, dim=1), far(4, 3, dim=1))
    check("swiglu", far(3, 40), far(3, 40), far(3, 40))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_attention(dim, far, randn):
    """Catches sequences, heads or positions at offsets of 32 bits, in a prompt and in a cache."""
    q, k, v = (far(3, 3, 3, 16, dim=dim) for _ in range(3))
    check("flash_attention", q, k, v, causal=True)
    lengths = torch.tensor([3, 3, 3], dtype=torch.int32)
    check("flash_decoding", far(3, 3, 16, dim=min(dim, 1)), k, v, lengths)
    x, weight, norm = (randn(*s, dtype=torch.float16) for s in ((3, 32), (9 * 16, 32), (32,)))
    check("decode_qkv", x, weight, None, norm, 1e-5, randn(3, 16), randn(3, 16), lengths, k, v)


def test_tiles_of_keys(far, randn):
    """Catches the step from one tile of keys to the next, BLOCK_N · stride, in 32 bits."""
    k, v = (far(1, 1, 513, 16, dim=2, step=1 << 24) for _ in range(2))
    check("flash_attention", randn(1, 1, 3, 16, dtype=torch.float16), k, v)
    check("flash_decoding", randn(1, 1, 16, dtype=torch.float16), k, v, torch.tensor([513], dtype=torch.int32))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_rotary_embedding(dim, far, randn):
    """Catches sequences, heads or positions at offsets of 32 bits."""
    check("rotary_embedding", far(3, 3, 3, 16, dim=dim), far(3, 3, 3, 16, dim=dim), randn(3, 16), randn(3, 16))


def test_varlen(far):
    """Catches a sequence's first query or key at an offset of 32 bits."""
    q, k, v = (far(6, 1, 16) for _ in range(3))
    cu_seqlens = torch.tensor([0, 3, 6], dtype=torch.int32)
    check("flash_attention_varlen", q, k, v, cu_seqlens, cu_seqlens)


def test_embedding_of_the_next_token(far, device):
    """Catches a token's row of a large embedding looked up at an offset of 32 bits."""
    V, hidden = 140_000, STEP // 65_536
    embedding = far(3, hidden).as_strided((V, hidden), (hidden, 1))
    x, logits = torch.empty(1, hidden, dtype=torch.float16), torch.zeros(1, V, dtype=torch.float16)
    logits[0, 2 * STEP // hidden] = 1.0
    one = state(
        device, temperature=[0.0], seeds=[0], lengths=[1], limits=[9], running=[1], stop_tokens=[-1], tokens=[[0]],
        steps=[0],
    )  # fmt: skip
    with trace(races=False, uninitialized=False) if interpreter.enabled() else nullcontext():
        kernels.next_token(logits, **one, embedding=embedding, x=x)
    assert torch.equal(x[0], embedding[2 * STEP // hidden]) and x.any()
