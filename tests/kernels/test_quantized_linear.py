import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytriton_llama import reference
from pytriton_llama.kernels import (
    QuantizedWeight,
    decode_linear,
    dequantize,
    next_token,
    quantized_linear,
    quantized_qkv,
    rms_norm,
    tiles,
)
from pytriton_llama.kernels.quantized_linear import dequantize_kernel
from pytriton_llama.kernels.quantized_weight import join, pack, unpack
from pytriton_llama.runtime import interpreted
from tests.kernels.test_decode_linear import doubles, qkv_inputs
from tests.kernels.test_next_token import four
from tests.tolerances import assert_close

# (bits, group_size, minima); a group of 0 is a whole row.
FORMS = {
    "int8": (8, 0, False),
    "int8 in groups": (8, 32, False),
    "int8 with minima": (8, 96, True),
    "int4": (4, 64, False),
    "int4, short groups": (4, 32, False),
    "int4 with minima": (4, 32, True),
    "int4, whole rows": (4, 0, True),
}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request) -> tuple[int, int, bool]:
    return request.param


@pytest.fixture(params=[1, 3, 16, 40, 65])
def rows(request, monkeypatch) -> int:
    """Rows of x, with tiles as small as on a GPU: several programs, each with several blocks of a weight's rows."""
    if interpreted():

        def small(M, N, K, weights, weight, dtype):
            group = weight.group_size
            tile = {"BLOCK_K": min(group & -group, 64), "BLOCK_N": 2 if M == 1 else 16}
            return 3 if M == 1 else -(-N // 16), tile | {"BLOCK_M": 1 if M == 1 else 16 if M <= 16 else 64}

        monkeypatch.setattr(tiles, "quantized_linear", small)
        monkeypatch.setattr(tiles, "fuses_qkv", lambda M: M <= tiles.DECODE_ROWS)
    return request.param


def draw(N: int, K: int, form: tuple[int, int, bool], device: str, seed: int = 0) -> QuantizedWeight:
    """Every bit pattern; scales of both signs and very different sizes; values of about K^−½."""
    bits, group_size, minima = form
    group_size = group_size or K
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 2**bits, (N, K), generator=g)
    size = 2.0**-bits * K**-0.5 * 4
    scales = size * torch.randn(N, K // group_size, generator=g) * 10 ** torch.rand(N, K // group_size, generator=g)
    low = (-(2 ** (bits - 1)) * scales * torch.rand(scales.shape, generator=g)).half() if minima else None
    weight = QuantizedWeight(pack(q, bits), scales.half(), low, bits, group_size)
    packed, scales, minima = (None if t is None else t.to(device) for t in weight.tensors)
    return dataclasses.replace(weight, packed=packed, scales=scales, minima=minima)


def rms(error: torch.Tensor) -> float:
    return float(error.double().square().mean().sqrt())


@pytest.mark.parametrize("K", [96, 576])
@pytest.mark.parametrize("options", ["bare", "norm bias residual", "norm up", "up residual"])
def test_against_fp64(options, K, form, rows, dtype, device, randn):
    """Catches a field shifted by another's bits, a sign read into the highest one, a scale or minimum of the next
    group or row, an excess or Σx left in, a row of the weight done twice or never, and what test_decode_linear does."""
    if K % (form[1] or K):
        pytest.skip("no whole groups")
    N = 50
    x, weight = randn(rows, K, dtype=dtype), draw(N, K, form, device)
    all_options = {
        "bias": randn(N, dtype=dtype),
        "residual": randn(rows, N, dtype=dtype),
        "up_weight": draw(N, K, form, device, seed=1),
        "norm_weight": randn(K, dtype=dtype),
    }
    given_options = {name: t for name, t in all_options.items() if name.split("_")[0] in options}
    y = quantized_linear(x, weight, eps=1e-3, **given_options)
    oracle = reference.quantized_linear(x.double(), weight, eps=1e-3, **doubles(given_options))
    if dtype is torch.float32:
        assert_close(y, oracle, size=oracle.abs().amax(-1, keepdim=True) + (2 if "norm" in options else 0))
        return
    # 16 bits: no further off than 03's norm and 02's products of the same weights are, in this dtype.
    plain = {n: t.dequantize(dtype) if isinstance(t, QuantizedWeight) else t for n, t in given_options.items()}
    norm = plain.pop("norm_weight", None)
    n = x if norm is None else rms_norm(x, norm, 1e-3)
    expected = decode_linear(n, weight.dequantize(dtype), **plain)
    assert rms(y - oracle) <= 1.25 * rms(expected - oracle)


def test_float32_has_no_second_excess(device, randn):
    """Catches fields of 4 bits under 2⁸'s exponent: float32 then loses what 16 bits never had."""
    x = randn(1, 4096)
    for seed in range(3):
        weight = draw(64, 4096, (4, 64, False), device, seed)
        error = (quantized_linear(x, weight) - reference.quantized_linear(x.double(), weight)).abs().max()
        assert error < 3e-6 * weight.dequantize().norm(dim=1).max()


def test_dequantize(form, dtype, device):
    """Catches fields in another order than :func:`unpack` has: bit for bit."""
    weight = draw(50, 192, form, device)
    assert torch.equal(dequantize(weight, dtype), weight.dequantize(torch.float32).to(dtype))


def test_dequantize_more_than_32_bits_count(device):
    """Catches a number of weights in 32 bits, as the first program of 2²⁶ chunks sees it: it would write nothing."""
    weight = draw(1, 128, (4, 32, False), device)
    y = torch.full((1, 128), torch.nan, device=device)
    dequantize_kernel[(1,)](y, *weight.tensors, 1 << 26, 128, 4, 32, PDL=False, BLOCK_C=4)
    assert torch.equal(y, weight.dequantize())


@pytest.mark.parametrize("bits", [4, 8])
def test_the_order_of_bits(bits):
    """Catches pack and unpack wrong alike: by the definition, number by number."""
    q = torch.randint(0, 2**bits, (3, 64), generator=torch.Generator().manual_seed(0))
    packed, fields = pack(q, bits), 32 // bits
    for n, k in ((0, 0), (0, 1), (1, 5), (2, 31), (2, 63)):
        chunk, j, i = k // (4 * fields), k % (4 * fields) // 4, k % 4
        word = int(packed[n, 4 * chunk + i]) & 0xFFFFFFFF
        assert word >> (bits * j) & (2**bits - 1) == q[n, k]
    assert torch.equal(unpack(packed, bits).long(), q)
    with pytest.raises(ValueError, match="needed: rows of a multiple of"):
        pack(q[:, :8], bits)
    with pytest.raises(ValueError, match="known: 4, 8"):
        unpack(packed, 3)


@settings(max_examples=15, deadline=None)
@given(
    M=st.integers(1, 70),
    N=st.integers(1, 70),
    chunks=st.integers(1, 40),
    bits=st.sampled_from((4, 8)),
    up=st.booleans(),
)
def test_any_shape(M, N, chunks, bits, up):
    """Catches a tile that reaches past N or K. With the tiles of this machine."""
    device, K = "cpu" if interpreted() else "cuda", chunks * 128 // bits
    form = (bits, 0 if chunks % 2 else 256 // bits, False)
    x = torch.randn(M, K, generator=torch.Generator().manual_seed(M)).to(device)
    weight = draw(N, K, form, device)
    up_weight = draw(N, K, form, device, seed=1) if up else None
    y = quantized_linear(x, weight, up_weight=up_weight)
    oracle = reference.quantized_linear(x.double(), weight, up_weight=up_weight)
    longest = weight.dequantize().norm(dim=1).max()
    assert_close(y, oracle, size=oracle.abs().amax(-1, keepdim=True) + longest)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (3, 1, 80), (2, 2, 64)])
def test_qkv(heads, kv_heads, head_dim, form, rows, dtype, device, randn):
    """Catches what test_decode_linear's does, and a scale of a row for its partner half a head away."""
    arguments = list(qkv_inputs(randn, dtype, rows, heads, kv_heads, head_dim, hidden=192))
    arguments[1] = draw(arguments[1].shape[0], arguments[1].shape[1], form, device)
    doubled = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
    q, oracle = quantized_qkv(*arguments), reference.quantized_qkv(*doubled)
    there = arguments[7] > 0
    for actual, expected in ((q[there], oracle[there]), *zip(arguments[-2:], doubled[-2:], strict=True)):
        expected_size = expected.abs().nan_to_num().amax().reshape([1] * expected.dim()) if expected.numel() else None
        assert_close(actual, expected, size=expected_size)


def test_embedding_of_the_next_token(form, device, dtype, randn):
    """Catches another token's row, or its scales, looked up in a packed embedding."""
    embedding, logits = draw(300, 192, form, device), randn(4, 300)
    x = torch.full((4, 192), torch.nan, dtype=dtype, device=device)
    next_token(
        logits.to(dtype), **four(device) | {"temperature": torch.zeros(4, device=device)}, embedding=embedding, x=x
    )
    assert torch.equal(x, embedding.dequantize()[logits.to(dtype).argmax(-1)].to(dtype))


def test_a_group_of_zeros(device, randn):
    """Catches 0 · something not finite: scales of 0 make weights of 0, whatever q is."""
    weight = draw(20, 128, (4, 32, False), device)
    weight.scales.zero_()
    for M in (1, 3):
        assert torch.equal(quantized_linear(randn(M, 128), weight), torch.zeros(M, 20, device=device))


def test_rows_of_several_weights(device):
    """Catches minima forgotten where weights are joined, and rows picked from one of the three tensors only."""
    first, second = (draw(6, 64, (4, 32, True), device, seed) for seed in (0, 1))
    both = join((first, second))
    assert torch.equal(both.dequantize(), torch.cat((first.dequantize(), second.dequantize())))
    assert torch.equal(both[torch.tensor([7, 0])].dequantize(), both.dequantize()[[7, 0]])
    assert both.shape == (12, 64) and both.nbytes == 12 * (32 + 2 * 2 * 2)


def test_bad_arguments_are_named(device, randn):
    """Catches a form that the kernel would read as another one."""
    x, weight = randn(2, 128), draw(8, 128, (4, 32, False), device)
    other = draw(8, 128, (4, 64, False), device)
    change = dataclasses.replace
    for call, message in (
        (lambda: quantized_linear(randn(2, 64), weight), "needed: "),
        (lambda: quantized_linear(x, weight, up_weight=other), "up_weight must be"),
        (lambda: quantized_linear(x, weight, randn(8), up_weight=weight), "exclude each other"),
        (lambda: quantized_linear(randn(2, 256)[:, ::2], weight), "x must be contiguous"),
        (lambda: quantized_linear(x, weight, residual=x), "residual must be"),
        (lambda: quantized_linear(x, change(weight, group_size=48)), "groups of a multiple of 32 that divides 128"),
        (lambda: quantized_linear(x, change(weight, scales=other.scales)), "scales is"),
        (lambda: quantized_linear(x, change(weight, packed=weight.packed.t().contiguous().t())), "contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"scales is torch\.float32"):
        quantized_linear(x, change(weight, scales=weight.scales.float()))
