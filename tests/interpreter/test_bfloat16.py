"""bfloat16, which the stock interpreter computes as 16-bit integers."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from triton.tools.tensor_descriptor import TensorDescriptor


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_rounding_is_torchs(words):
    """Catches truncation, ties rounded up, and a NaN whose payload carries into infinity."""
    from pytriton_llama.interpreter.types import bf16_to_f32, f32_to_bf16

    values = np.array(words, np.uint32).view(np.float32)
    ours = torch.from_numpy(f32_to_bf16(values)).view(torch.bfloat16)
    theirs = torch.from_numpy(values).bfloat16()
    assert torch.equal(ours.isnan(), theirs.isnan())
    real = ~theirs.isnan()
    assert torch.equal(ours[real].view(torch.int16), theirs[real].view(torch.int16))
    back = torch.from_numpy(bf16_to_f32(ours.view(torch.uint16).numpy()))
    assert torch.equal(back[real], ours.float()[real])


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@triton.jit
def arithmetic(x, y, out, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    b = tl.load(y + i)
    tl.store(out + i, a + b)
    tl.store(out + B + i, a * b - 1.5)
    tl.store(out + 2 * B + i, a / b)
    tl.store(out + 3 * B + i, tl.where(a < b, -a, tl.abs(b)))
    tl.store(out + 4 * B + i, tl.maximum(a, b) + tl.full((B,), 0.3, tl.bfloat16))
    tl.store(out + 5 * B + i, tl.exp(a.to(tl.float32)).to(tl.bfloat16))
    tl.store(out + 6 * B + i, (i * 37).to(tl.bfloat16))
    tl.store(out + 7 * B + i, tl.fma(a, b, a))


def test_arithmetic():
    """Catches sums, products and comparisons of bit patterns."""
    x, y = rand(64), rand(64, seed=1)
    x[:3] = torch.tensor([float("inf"), -0.0, 1e-40])
    out = torch.zeros(8, 64, dtype=torch.bfloat16)
    arithmetic[(1,)](x, y, out, 64)
    expected = [
        x + y,
        x * y - torch.tensor(1.5).bfloat16(),
        (x.float() / y.float()).bfloat16(),
        torch.where(x < y, -x, y.abs()),
        torch.maximum(x, y) + torch.tensor(0.3).bfloat16(),
        x.float().exp().bfloat16(),
        (torch.arange(64) * 37).bfloat16(),
        (x.float() * y.float() + x.float()).bfloat16(),
    ]
    for got, want in zip(out, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@triton.jit
def matmul(a, b, c, B: tl.constexpr):
    i = tl.arange(0, B)[:, None]
    j = tl.arange(0, B)[None, :]
    acc = tl.dot(tl.load(a + i * B + j), tl.load(b + i * B + j))
    tl.store(c + i * B + j, acc)


@pytest.mark.parametrize("out", [torch.bfloat16, torch.float32])
def test_dot(out):
    """Catches products of bit patterns, whose error is 1e10."""
    a, b, c = rand(32, 32), rand(32, 32, seed=1), torch.zeros(32, 32, dtype=out)
    matmul[(1,)](a, b, c, 32)
    torch.testing.assert_close(c, (a.float() @ b.float()).to(out))


@triton.jit
def reduced(x, out, B: tl.constexpr):
    v = tl.load(x + tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :])
    tl.store(out + tl.arange(0, B), tl.sum(v, 1))
    tl.store(out + B + tl.arange(0, B), tl.max(v, 0))
    tl.store(out + 2 * B, tl.sum(v))
    tl.store(out + 2 * B + 1, tl.min(v))


def test_reductions():
    """Catches a sum of bit patterns. It is taken in float32 and rounded once."""
    x, out = rand(16, 16), torch.zeros(34, dtype=torch.bfloat16)
    reduced[(1,)](x, out, 16)
    torch.testing.assert_close(out[:16], x.float().sum(1).bfloat16())
    torch.testing.assert_close(out[32], x.float().sum().bfloat16())
    assert torch.equal(out[16:32], x.amax(0)) and out[33] == x.min()


@triton.jit
def added(y, x, old, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(old + i, tl.atomic_add(y + i // 2, tl.load(x + i), mask=i < B - 1))


def test_atomic_add():
    """Catches an integer sum, and one rounding for two additions."""
    x, y, old = rand(16), rand(8, seed=2), torch.zeros(16, dtype=torch.bfloat16)
    first = y + x[::2]
    expected = first + x[1::2]
    expected[7] = first[7]
    before = y.clone()
    added[(1,)](y, x, old, 16)
    assert torch.equal(y, expected) and torch.equal(old[::2], before) and torch.equal(old[1:15:2], first[:7])


@triton.jit
def padded(x, y, i, j):
    y.store([0, 0], x.load([i, j]))


def test_descriptor_padded_with_nan():
    """Catches a NaN that becomes some integer."""
    x = TensorDescriptor.from_tensor(rand(24, 24), [16, 16], padding="nan")
    y = torch.zeros(16, 16, dtype=torch.bfloat16)
    padded[(1,)](x, TensorDescriptor.from_tensor(y, [16, 16]), 16, 8)
    assert torch.equal(y[:8], x.base[16:, 8:]) and y[8:].isnan().all()
