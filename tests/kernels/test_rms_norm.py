import pytest
import torch

from pytriton_llama import reference
from pytriton_llama.kernels import add_rms_norm, rms_norm
from tests.tolerances import assert_close

SHAPES = [(1, 16), (3, 576), (2, 5, 127), (40, 1000), (2, 8193), (3, 40_001)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rms_norm(shape, dtype, randn):
    """Catches a mean over the padded row, a missing mask, eps outside the root, the weight left out."""
    x, weight = randn(*shape, dtype=dtype, scale=0.03), randn(shape[-1], dtype=dtype)
    assert_close(rms_norm(x, weight, 1e-3), reference.rms_norm(x.double(), weight.double(), 1e-3))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_rms_norm(shape, dtype, randn):
    """Catches a norm of x alone, and a returned sum other than the one that was normalised."""
    x, residual, weight = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype), randn(shape[-1], dtype=dtype)
    normed, total = add_rms_norm(x, residual, weight)
    assert torch.equal(total, x + residual)
    assert_close(normed, reference.rms_norm(total.double(), weight.double()))


LENGTHS = pytest.mark.parametrize("columns", [512, 40_001])  # of a row that is one block, and of one that is walked


@LENGTHS
def test_squares_are_summed_in_float32(columns, randn):
    """Catches fp16 accumulation: 300² is beyond fp16."""
    x = randn(4, columns, dtype=torch.float16) + 300
    weight = torch.ones(columns, dtype=torch.float16, device=x.device)
    assert_close(rms_norm(x, weight), reference.rms_norm(x.double(), weight.double()))


@LENGTHS
def test_rounds_before_weighting_as_llama_does(columns, randn):
    """Catches the weight applied in float32, with one rounding: other logits than Hugging Face's; and a norm of the sum
    before it is rounded."""
    first, residual, weight = (randn(*s, columns, dtype=torch.float16) for s in ((64,), (64,), ()))
    normed, x = add_rms_norm(first, residual, weight)
    wide = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    llama, other = wide.half() * weight, (wide * weight.float()).half()
    assert (llama != other).float().mean() > 0.1  # the orders can be told apart here
    # A reciprocal root that is off by its last bit flips a rounding now and then.
    assert (rms_norm(x, weight) != llama).float().mean() < 0.01
    assert (normed != llama).float().mean() < 0.01


def test_strided_input(randn):
    """Catches a row stride taken to be the row's length."""
    x, weight = randn(6, 4, 100).transpose(0, 1)[:, :, :60], randn(60)
    assert_close(rms_norm(x, weight), reference.rms_norm(x.double(), weight.double()))


def test_empty_and_bad_arguments(randn):
    """Catches a launch with an empty grid, and shapes that broadcast by accident."""
    assert rms_norm(randn(0, 8), randn(8)).shape == (0, 8)
    with pytest.raises(ValueError, match=r"needed: \(8,\)"):
        rms_norm(randn(3, 8), randn(1))
    with pytest.raises(ValueError, match="must agree"):
        add_rms_norm(randn(3, 8), randn(1, 8), randn(8))
    with pytest.raises(TypeError, match="weight is torch"):
        rms_norm(randn(3, 8), randn(8, dtype=torch.float16))
