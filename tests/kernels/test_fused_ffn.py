import pytest
import torch
from triton import language as tl

from pytriton_llama import reference
from pytriton_llama.kernels import arguments, fused_ffn, silu_mul, swiglu, tiles
from pytriton_llama.runtime import interpreted
from tests.tolerances import assert_close


@pytest.mark.parametrize("shape", [(1, 1), (3, 127), (2, 5, 576), (70, 4097)], ids=str)
def test_silu_mul(shape, dtype, monkeypatch, randn):
    """Catches gate and up exchanged, a missing mask, halves of one tensor read as if each were contiguous, and one of a
    row's blocks in another's place."""
    monkeypatch.setattr(tiles, "INTERPRETED_ROWS", 1024)
    both = randn(*shape[:-1], 2 * shape[-1], dtype=dtype, scale=3)
    gate, up = both.chunk(2, dim=-1)
    assert_close(silu_mul(gate, up), reference.silu_mul(gate.double(), up.double()))
    with pytest.raises(ValueError, match="must agree"):
        silu_mul(gate, up[..., :0])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1536, 576), (19, 70, 65), (130, 200, 96)], ids=str)
def test_swiglu(shape, dtype, randn):
    """Catches gate and up exchanged, silu on the wrong one, and a product rounded before it is multiplied."""
    M, N, K = shape
    x, gate, up = randn(M, K, dtype=dtype), *(randn(N, K, dtype=dtype, scale=K**-0.5) for _ in range(2))
    assert_close(swiglu(x, gate, up), reference.swiglu(x.double(), gate.double(), up.double()))


def test_swiglu_strides(randn):
    """Catches one weight's strides used for both."""
    x, gate, up = randn(7, 40), randn(30, 40), randn(40, 30).t()
    assert_close(swiglu(x, gate, up), reference.swiglu(x.double(), gate.double(), up.double()))


def test_swiglu_names_bad_arguments(randn):
    """Catches rows of x that are cut or joined to fit the weights, and weights of two shapes."""
    x, gate, up = randn(6, 40), randn(30, 40), randn(30, 40)
    for wrong in (x[:, :20], x[:, :39], x.sum()):
        with pytest.raises(ValueError, match="last dimension must be 40"):
            swiglu(wrong, gate, up)
    for weights in ((gate, up[:1]), (gate[0], up[0])):
        with pytest.raises(ValueError, match="needed: equal"):
            swiglu(x, *weights)


@pytest.mark.skipif(interpreted(), reason="sizes for a GPU")
@pytest.mark.parametrize("shape", [(4096, 8192, 2048), (1000, 1000, 1000), (100, 8192, 2048), (64, 999, 512)], ids=str)
def test_swiglu_of_real_sizes(shape, dtype, randn):
    """Catches what only a large problem has: programs that make several tiles; and gate and up exchanged."""
    M, N, K = shape
    x, gate, up = randn(M, K, dtype=dtype), *(randn(N, K, dtype=dtype, scale=K**-0.5) for _ in range(2))
    for pair in ((gate, up), (up, gate)):
        assert_close(swiglu(x, *pair), reference.swiglu(x.double(), *(w.double() for w in pair)))


@pytest.mark.skipif(not interpreted(), reason="the GPU has its own TMA")
def test_swiglu_with_tma(monkeypatch, randn):
    """Catches gate and up exchanged where up lies first in memory, and a descriptor that reaches one of them only,
    or one for weights whose rows are not equally far apart."""
    tile = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 16, "GROUP_M": 2, "WIDTH": 16, "PERSISTENT": True}
    monkeypatch.setattr(arguments, "has_tma", lambda device: True)
    monkeypatch.setattr(tiles, "swiglu", lambda *_: (3, tile))
    x, both = randn(37, 104, dtype=torch.float16), randn(2 * 72, 104, dtype=torch.float16, scale=0.1)
    wider = randn(72, 112, dtype=torch.float16, scale=0.1)[:, :104]
    for gate, up in (both.chunk(2), both.chunk(2)[::-1], (both[:72], wider)):
        assert_close(swiglu(x, gate, up), reference.swiglu(x.double(), gate.double(), up.double()))


@pytest.mark.parametrize("activation", [None, "gelu_tanh", "silu"])
def test_fused_ffn(activation, dtype, randn):
    """Catches the weight taken as (N, K), and GELU's error-function form instead of its tanh form."""
    x, weight = randn(3, 11, 60, dtype=dtype), randn(60, 70, dtype=dtype, scale=0.2)
    bias, residual = randn(70, dtype=dtype), randn(3, 11, 70, dtype=dtype)
    wide = [t.double() for t in (x, weight, bias, residual)]
    assert_close(fused_ffn(x, weight, bias, residual, activation), reference.fused_ffn(*wide, activation))


def test_dropout_is_the_oracles(randn):
    """Catches random numbers that depend on the tiling, a scale forgotten or applied to the residual too."""
    x, weight, residual = randn(100, 24), randn(24, 90), randn(100, 90)
    arguments = {"residual": residual, "activation": None, "dropout_p": 0.3, "seed": 2**31 + 7}
    y = fused_ffn(x, weight, **arguments)
    wide = {**arguments, "residual": residual.double()}
    assert_close(y, reference.fused_ffn(x.double(), weight.double(), **wide))
    # 9000 elements: three deviations of a fair draw are 0.0145.
    assert abs((y == residual).float().mean().item() - 0.3) < 0.0145
    assert not torch.equal(y, fused_ffn(x, weight, **{**arguments, "seed": 8}))
    with pytest.raises(ValueError, match="dropout_p is 1"):
        fused_ffn(x, weight, dropout_p=1)


def test_the_oracles_random_numbers_are_tritons():
    """Catches an oracle that shares the kernel's mistake: known answer of Philox4x32-10 (Random123's test vectors)."""
    # Counter 0, key 0 gives the words 6627e8d5 e169c58d bc57ac4c 9b00dbd8; tl.rand uses the first.
    first = 0x6627E8D5
    assert reference.philox_uniform(0, 1).item() == pytest.approx(first * 4.6566127342e-10, rel=1e-6)
    assert tl.random.N_ROUNDS_DEFAULT.value == 10
