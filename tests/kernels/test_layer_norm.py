import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from pytriton_llama import reference
from pytriton_llama.interpreter import plans
from pytriton_llama.kernels import layer_norm
from pytriton_llama.runtime import interpreted
from tests.tolerances import assert_close


@pytest.mark.parametrize("shape", [(1, 16), (3, 576), (2, 5, 127), (40, 1000), (2, 8193), (3, 40_001)], ids=str)
def test_layer_norm(shape, dtype, randn):
    """Catches padding counted into mean or variance, n − 1 instead of n, eps outside the root, a forgotten bias."""
    x = randn(*shape, dtype=dtype, scale=0.1)
    weight, bias = randn(shape[-1], dtype=dtype), randn(shape[-1], dtype=dtype)
    oracle = reference.layer_norm(x.double(), weight.double(), bias.double(), 1e-3)
    assert_close(layer_norm(x, weight, bias, 1e-3), oracle)


@pytest.mark.parametrize("columns", [512, 40_001])
def test_large_mean(columns, randn):
    """Catches E[x²] − E[x]²: with mean 4096 and deviation 1 it loses all its digits."""
    x = randn(8, columns) + 4096
    weight, bias = torch.ones(columns, device=x.device), torch.zeros(columns, device=x.device)
    # The oracle sees the same rounded inputs; what is left is the rounding of the mean, 2⁻¹² of the deviation.
    oracle = reference.layer_norm(x.double(), weight.double(), bias.double())
    assert (layer_norm(x, weight, bias).double() - oracle).abs().max() < 1e-3


def test_drifting_row(randn):
    """Catches blocks merged without their means' distance, and the product of two counts in 32 bits: it passes 2³¹."""
    columns = 200_000
    x = randn(2, columns) + torch.linspace(0, 20, columns).to(randn(1).device)
    weight, bias = randn(columns), randn(columns)
    oracle = reference.layer_norm(x.double(), weight.double(), bias.double())
    assert_close(layer_norm(x, weight, bias), oracle)


def test_constant_row(randn):
    """Catches a variance that comes out negative: its root would be NaN."""
    x = torch.full((3, 100), 0.1, device=randn(1).device)
    bias = randn(100)
    assert_close(layer_norm(x, torch.ones_like(bias), bias), bias.expand(3, 100))


@pytest.mark.parametrize("columns", [3, 127, 1025, 4097, 40_001])
def test_equal_whole_numbers(columns, randn):
    """Catches a mean that is divided as a GPU's `/` does, wrong in its last digit: 1/sqrt(eps) makes 0.005 of that."""
    x, weight, bias = torch.full((3, columns), -200.0, device=randn(1).device), randn(columns), randn(columns)
    assert torch.equal(layer_norm(x, weight, bias), bias.expand(3, columns))


@pytest.mark.skipif(not interpreted(), reason="a GPU divides as it does")
@pytest.mark.parametrize("columns", [3, 127, 4097, 40_001])
@pytest.mark.parametrize("side", [np.inf, -np.inf], ids=["above", "below"])
def test_division_of_a_gpu(columns, side, randn, monkeypatch):
    """Catches the same without a GPU: quotients are as wrong as one's may be, 2 ulp (PTX ISA, div.full.f32), and an fma
    rounds once, as there."""

    def divide(a, b):
        q = np.divide(a, b)
        return np.where(q == 0, q, np.nextafter(np.nextafter(q, np.float32(side)), np.float32(side)))

    def fma(self, x, y, z):
        once = x.data.astype(np.float64) * y.data + z.data
        return TensorHandle(once.astype(np.float32), z.dtype.scalar)

    monkeypatch.setattr(plans, "_plans", {})  # which hold the builder's methods as they were
    monkeypatch.setattr(InterpreterBuilder, "create_fdiv", lambda self, a, b: self.binary_op(a, b, divide))
    monkeypatch.setattr(InterpreterBuilder, "create_fma", fma)
    test_equal_whole_numbers(columns, randn)


def test_empty_and_bad_arguments(randn):
    """Catches a launch with an empty grid, and a bias that broadcasts by accident."""
    assert layer_norm(randn(0, 8), randn(8), randn(8)).shape == (0, 8)
    with pytest.raises(ValueError, match="bias"):
        layer_norm(randn(3, 8), randn(8), randn(1))


def test_huge_mean(randn):
    """Catches the square of the first block's mean, inf, times the 0 columns before it: NaN where all is finite."""
    columns = 40_001
    x = 2.0**65 * (1 + 2.0**-10 * randn(2, columns))
    weight, bias = torch.ones(columns, device=x.device), torch.zeros(columns, device=x.device)
    # As above: the mean's rounding is 2⁻¹⁴ of the deviation.
    oracle = reference.layer_norm(x.double(), weight.double(), bias.double())
    assert (layer_norm(x, weight, bias).double() - oracle).abs().max() < 1e-3
