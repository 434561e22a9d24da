from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytriton_llama import interpreter, reference
from pytriton_llama.interpreter import trace
from pytriton_llama.kernels import arguments, linear, tiles
from pytriton_llama.runtime import interpreted
from tests.tolerances import assert_close

BIG = 1 if interpreted() else 8  # the interpreter's tiles are large, and its time is short


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 192, 576), (17, 129, 65), (130, 200 * BIG, 96 * BIG)], ids=str)
@pytest.mark.parametrize("activation", [None, "gelu_tanh", "silu"])
def test_epilogue(shape, activation, dtype, randn):
    """Catches a missing mask along M, N or K, a bias added after the activation, a residual before it, and TF32."""
    M, N, K = shape
    x, weight = randn(M, K, dtype=dtype), randn(N, K, dtype=dtype, scale=K**-0.5)
    bias, residual = randn(N, dtype=dtype), randn(M, N, dtype=dtype)
    inputs = (x, weight, bias, residual)
    wide = [t.double() for t in inputs]
    oracle = reference.linear(wide[0], wide[1], wide[2], activation, wide[3])
    size = reference.linear(x.abs(), weight.abs(), bias.abs(), None, residual.abs())
    assert_close(linear(x, weight, bias, activation, residual), oracle, size)


@settings(max_examples=20, deadline=None)
@given(M=st.integers(0, 150), N=st.integers(0, 150), K=st.integers(0, 150))
def test_any_shape(M, N, K):
    """Catches K not a multiple of the tile, a last group of tiles shorter than GROUP_M, K = 0 left unwritten."""
    generator = torch.Generator().manual_seed(M * 151 * 151 + N * 151 + K)
    device = "cpu" if interpreted() else "cuda"
    x = torch.randn(M, K, generator=generator).to(device)
    weight, bias = (torch.randn(*s, generator=generator).to(device) for s in ((N, K), (N,)))
    size = reference.linear(x.abs(), weight.abs(), bias.abs())
    assert_close(linear(x, weight, bias), reference.linear(x.double(), weight.double(), bias.double()), size)


def test_strides_and_leading_dimensions(randn):
    """Catches a weight read as if contiguous (a transposed view), and rows of x or residual likewise."""
    x = randn(3, 40, 5).transpose(1, 2)  # (3, 5, 40), columns 5 apart
    weight, residual = randn(40, 30).t(), randn(5, 3, 30).transpose(0, 1)
    oracle = reference.linear(x.double(), weight.double(), residual=residual.double())
    assert_close(linear(x, weight, residual=residual), oracle)
    for residual in (randn(15, 50)[:, 10:40], randn(30, 15).t()):
        oracle = reference.linear(x.reshape(15, 40).double(), weight.double(), residual=residual.double())
        assert_close(linear(x.reshape(15, 40), weight, residual=residual), oracle)


def test_what_lies_past_k_is_not_read(dtype, randn):
    """Catches one side masked along K and the other not: 0 · NaN is NaN."""
    x, weight = randn(20, 64, dtype=dtype), randn(32, 64, dtype=dtype)
    x[:, 50:], weight[:, 50:] = float("nan"), float("nan")
    oracle = reference.linear(x[:, :50].double(), weight[:, :50].double())
    assert_close(linear(x[:, :50], weight[:, :50]), oracle)


@pytest.fixture(params=[(1, False), (3, False), (2, True)], ids=["whole", "in 3 pieces", "swapped, in 2 pieces"])
def tma(request, monkeypatch):
    """As on a GPU with TMA, and with a tile of which a small problem has many; the last five of them in pieces."""
    if not interpreted():
        pytest.skip("the GPU has its own")
    splits, swap = request.param
    tile = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 16, "GROUP_M": 2, "WIDTH": 16, "SWAP": swap, "PERSISTENT": True}

    def plan(M, N, K, dtype, device, tma, tma_y, dropout):
        assert tma
        count = -(-M // 16) * -(-N // 32)
        return 5 * splits, count if splits == 1 else count - 5, splits, tile

    monkeypatch.setattr(arguments, "has_tma", lambda device: True)
    monkeypatch.setattr(tiles, "linear", plan)


@pytest.mark.parametrize("shape", [(50, 104, 64), (33, 200, 104), (130, 51, 45)], ids=str)
def test_tma(tma, shape, randn):
    """Catches a descriptor of the wrong matrix or turned the wrong way, sums of the wrong tile, pieces that overlap or
    leave steps out (104 is neither 3 nor 2 times a multiple of 16), columns finished twice, rows that TMA cannot take
    (45 columns of 2 bytes) given to it."""
    M, N, K = shape
    x, weight, residual = (randn(*s, dtype=torch.float16) for s in ((M, K), (N, K), (M, N)))
    bias = randn(N, dtype=torch.float16)
    for w in (weight, weight.t().contiguous().t()):
        # Traced where it can be: that raises where two programs store to one place, or beyond a tensor.
        with trace() if interpreter.enabled() else nullcontext():
            y = linear(x, w, bias, "silu", residual)
        oracle = reference.linear(x.double(), w.double(), bias.double(), "silu", residual.double())
        assert_close(y, oracle, reference.linear(x.abs(), w.abs(), bias.abs(), None, residual.abs()))


# Between them they select every tile of an H100 for 16 bits, whole and in pieces; (M, N, K).
REAL = [(4096, 4096, 1024), (3072, 3072, 3072), (512, 4096, 4096), (1000, 1000, 1000), (130, 3072, 2048)]
REAL += [(64, 16384, 2048), (64, 2048, 8192), (9, 2048, 8192), (1, 4096, 4096), (1001, 1003, 1005), (64, 999, 512)]


@pytest.mark.skipif(interpreted(), reason="sizes for a GPU")
@pytest.mark.parametrize("shape", REAL, ids=str)
def test_real_sizes(shape, dtype, randn):
    """Catches what only a large problem has: programs that make several tiles, pieces, a weight that lies (K, N)."""
    M, N, K = shape
    x, residual = randn(M, K, dtype=dtype), randn(M, N, dtype=dtype)
    weight, bias = randn(K, N, dtype=dtype, scale=K**-0.5).t(), randn(N, dtype=dtype)
    for w in (weight, weight.contiguous()):
        oracle = reference.linear(x.double(), w.double(), bias.double(), "gelu_tanh", residual.double())
        size = reference.linear(x.abs(), w.abs(), bias.abs(), None, residual.abs())
        y = linear(x, w, bias, "gelu_tanh", residual)
        assert_close(y, oracle, size)
        assert torch.equal(y, linear(x, w, bias, "gelu_tanh", residual))


def test_bad_arguments_are_named(randn):
    """Catches an error from deep inside Triton, or garbage, where one line would do."""
    x, weight = randn(4, 8), randn(6, 8)
    for match, values in {
        "x is .*; needed": (randn(1)[0], weight),
        "weight .*; needed": (x, randn(1, 6, 8)),
        "last dimension must be 8": (randn(4, 7), weight),
        "bias is": (x, weight, randn(8)),
        "relu": (x, weight, None, "relu"),
        "residual is": (x, weight, None, None, randn(1, 6)),
    }.items():
        with pytest.raises(ValueError, match=match):
            linear(*values)
