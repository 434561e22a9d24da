"""Every operation at odd sizes, watched: no access outside of a tensor, no race, no load of what nobody wrote.

A result does not show these: what is read too much is often masked later, what is written too much lies elsewhere.
"""

import pytest
import torch

from pytriton_llama import interpreter, kernels
from pytriton_llama.interpreter import trace
from pytriton_llama.kernels import tiles
from tests.kernels.test_decode_linear import ONE_ROW, SLICED, qkv_inputs
from tests.kernels.test_next_token import four
from tests.kernels.test_quantized_linear import draw

pytestmark = pytest.mark.skipif(not interpreter.enabled(), reason="only the fast interpreter can be watched")


def watched(function, *arguments, **options):
    with trace(extent="view"):
        return function(*arguments, **options)


@pytest.mark.parametrize("columns", [37, 33_000])
def test_rows(columns, randn):
    """Catches a mask of a row's end or of the last rows left out, in one block and in a walk."""
    x, residual, weight = (randn(*s, columns + 3)[..., :columns] for s in ((5,), (5,), ()))
    watched(kernels.softmax, x)
    watched(kernels.rms_norm, x, weight)
    watched(kernels.add_rms_norm, x, residual, weight)
    watched(kernels.layer_norm, x, weight, weight)
    watched(kernels.silu_mul, x, residual)


def test_products(randn):
    """Catches a mask along M, N or K left out; bias and residual among what is loaded."""
    x, weight, bias, residual = randn(19, 45), randn(37, 45), randn(37), randn(19, 37)
    watched(kernels.linear, x, weight, bias, "silu", residual)
    watched(kernels.swiglu, x, weight, weight.clone())
    watched(kernels.fused_ffn, x, weight.t(), bias, residual, dropout_p=0.5)


def test_attention(randn):
    """Catches padding of heads, halves, head_dim, queries or keys that is read or written."""
    q, k, v = randn(2, 9, 37, 80), randn(2, 3, 45, 80), randn(2, 3, 45, 80)
    watched(kernels.rotary_embedding, q, k[:, :, :37], randn(37, 80), randn(37, 80))
    for options in ({}, {"causal": True}, {"causal": True, "window": 11}):
        watched(kernels.flash_attention, q, k, v, return_lse=True, **options)
    lengths = torch.tensor([0, 45], dtype=torch.int32)
    watched(kernels.flash_decoding, q[:, :, 0], k, v, lengths)
    starts = torch.tensor([0, 17, 17, 37], dtype=torch.int32)
    watched(kernels.flash_attention_varlen, *(t[0, :, :37].transpose(0, 1) for t in (q, k, v)), starts, starts)


def test_programs_left_over(monkeypatch, randn):
    """Catches a program without a piece that takes one, of a sequence past the last."""
    tile = {"BLOCK_B": 8, "BLOCK_N": 16, "BLOCK_D": 32, "BLOCK_G": 16, "MIN_STEPS": 1}
    monkeypatch.setattr(tiles, "flash_decoding", lambda *_: (2, tile))
    q, k, v = randn(8, 6, 32), randn(8, 2, 16, 32), randn(8, 2, 16, 32)
    watched(kernels.flash_decoding, q, k, v, torch.tensor([16] + 7 * [1], dtype=torch.int32))


@pytest.mark.parametrize("rows", [1, 3])
def test_decode_step(rows, monkeypatch, randn):
    """Catches a weight read past N or K, and q, k or v written to a head that is not there."""
    monkeypatch.setattr(tiles, "decode_linear", lambda M, *_: ONE_ROW if M == 1 else SLICED)
    monkeypatch.setattr(tiles, "fuses_qkv", lambda M: True)
    x, weight, norm = randn(rows, 45), randn(37, 45), randn(45)
    watched(kernels.decode_linear, x, weight, randn(37), norm, residual=randn(rows, 37))
    watched(kernels.decode_linear, x, weight, None, norm, up_weight=weight.clone())
    watched(kernels.decode_qkv, *qkv_inputs(randn, torch.float32, rows, 3, 1, 80))


@pytest.mark.parametrize("form", [(4, 32, True), (8, 32, False)], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_quantized(form, rows, device, randn):
    """Catches words, scales or minima read past a row's or the weight's end."""
    weight = draw(37, 96, form, device)
    watched(kernels.quantized_linear, randn(rows, 96), weight, randn(37), randn(96), residual=randn(rows, 37))
    watched(kernels.quantized_linear, randn(rows, 96), weight, up_weight=weight)
    watched(kernels.dequantize, weight, torch.float32)
    arguments = list(qkv_inputs(randn, torch.float32, rows, 3, 1, 80))
    arguments[1] = draw(arguments[1].shape[0], 96, form, device)
    watched(kernels.quantized_qkv, *arguments)


def test_next_token(device, randn):
    """Catches logits read past the vocabulary, stop tokens past their end, an embedding past its row."""
    watched(kernels.next_token, randn(4, 5003), **four(device), embedding=randn(5003, 40), x=randn(4, 40))
