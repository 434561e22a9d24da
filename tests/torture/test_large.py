"""Operands and results of more than 2³¹ elements: offsets, counts and products of sizes that need 64 bits.

Random inputs of 16 bits, 4 to 9 GB each. What is looked at are the first rows, those where 2³¹ is passed, a middle one
and the last.
"""

import pytest
import torch

from pytriton_llama import kernels, reference
from pytriton_llama.kernels import QuantizedWeight
from tests.tolerances import assert_close, assert_within, error_bound
from tests.torture import sizes
from tests.torture.huge import BEYOND, check, need_memory, randn, rows, some, wide

pytestmark = pytest.mark.gpu
HALF = torch.float16
# Matrices beyond 2³¹: (rows, columns), of which the second kind has rows that TMA cannot step along.
LONG, ODD = (262_149, 8200), (262_149, 8201)


@pytest.fixture(autouse=True)
def freed():
    torch.manual_seed(1337)
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize(
    "shape",
    [(524_293, 4096), (524_293, 4097), (16_387, 131_080), (21_477, 100_003)],
    ids=["whole", "odd", "walked", "far"],
)
def test_rows(shape):
    """Catches a row's number times its length in 32 bits, for loads or for stores, be rows one block or walked."""
    need_memory(25)
    x, weight = randn(*shape), randn(shape[1])
    rows("softmax", x)
    rows("rms_norm", x, weight)
    rows("layer_norm", x, weight, weight)
    residual = randn(*shape, scale=2.0)
    rows("add_rms_norm", x, residual, weight)
    rows("silu_mul", x, residual)
    rows("silu_mul", x[:, :-1], residual[:, 1:])


def test_softmax_of_columns():
    """Catches a column's stride, or the number of columns, in 32 bits."""
    need_memory(15)
    x = randn(5, (1 << 29) + 3)
    y, at = kernels.softmax(x, 0), some(x.shape[1])
    check(y[:, at], "softmax", x[:, at], dim=0)


@pytest.mark.parametrize("shape", [LONG, ODD], ids=["TMA", "pointers"])
def test_products_of_many_rows(shape):
    """Catches offsets of 32 bits into x (M · K) and into result and residual (M · N), by TMA or not."""
    need_memory(30)
    M, N = shape
    x, w, up = randn(M, N, dtype=HALF), *(randn(64, N, dtype=HALF, scale=N**-0.5) for _ in range(2))
    at = some(M, N)
    check(kernels.linear(x, w)[at], "linear", x[at], w)
    check(kernels.swiglu(x, w, up)[at], "swiglu", x[at], w, up)
    residual = x  # now of the result, whose columns are many
    x, w, up = randn(M, 64, dtype=HALF), *(randn(N, 64, dtype=HALF, scale=0.125) for _ in range(2))
    bias = w[:, 0].contiguous()
    check(kernels.linear(x, w, bias, "silu", residual)[at], "linear", x[at], w, bias, "silu", residual[at])
    check(kernels.swiglu(x, w, up)[at], "swiglu", x[at], w, up)
    options = {"activation": "gelu_tanh", "dropout_p": 0.25, "seed": 7}
    dropped = kernels.fused_ffn(x, w.t(), bias, None, **options)[at]
    kept = dropped != 0
    assert ((kept.float().mean(1) - 0.75).abs() < 0.05).all() and not torch.equal(kept[0], kept[-1])
    whole = kernels.fused_ffn(x[at], w.t(), bias)
    torch.testing.assert_close(dropped, torch.where(kept, whole / 0.75, 0.0), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("M", [1, 5, 16, 200])
@pytest.mark.parametrize("shape", [LONG, ODD], ids=["TMA", "pointers"])
def test_products_with_a_large_weight(shape, M):
    """Catches offsets of 32 bits into a weight (N · K): the head of a large vocabulary."""
    need_memory(25)
    N, K = shape
    w, x, norm = randn(N, K, dtype=HALF, scale=K**-0.5), randn(M, K, dtype=HALF), randn(K, dtype=HALF)
    at = some(N, K)
    check(kernels.linear(x, w)[:, at], "linear", x, w[at])
    check(kernels.decode_linear(x, w)[:, at], "decode_linear", x, w[at])
    check(kernels.fused_ffn(x, w.t())[:, at], "fused_ffn", x, w[at].t())
    up = w.roll(1, 0)
    check(kernels.swiglu(x, w, up)[:, at], "swiglu", x, w[at], up[at])
    if M <= 16:  # more rows are rms_norm's and swiglu's
        ours = kernels.decode_linear(x, w, norm_weight=norm, up_weight=up)[:, at]
        parts = wide(x), wide(w[at]), None, wide(norm), 1e-6, None, wide(up[at])
        oracle, ((size, rounded),) = reference.decode_linear(*parts), sizes.step(*parts)
        assert_within(ours, oracle, (oracle,), error_bound(HALF, oracle, size, rounded, K))


def test_fused_ffn_with_a_large_weight():
    """Catches offsets of 32 bits into a weight (K, N) as it lies in a checkpoint of GPT's."""
    need_memory(15)
    K, N = LONG
    x, w = randn(130, K, dtype=HALF), randn(K, N, dtype=HALF, scale=K**-0.5)
    at = some(N)
    check(kernels.fused_ffn(x, w)[:, at], "fused_ffn", x, w[:, at])


@pytest.mark.parametrize("M", [1, 3, 65])
@pytest.mark.parametrize(("bits", "minima"), [(4, False), (4, True), (8, False)])
def test_quantized_weights(bits, minima, M):
    """Catches offsets, and a count of numbers, of 32 bits in a packed weight with more than 2³¹ of them."""
    need_memory(15)
    N, K, group_size = 262_152, 8192, 64
    generator = torch.Generator("cuda").manual_seed(bits)
    size = (N, K * bits // 32)
    packed = torch.randint(-BEYOND, BEYOND, size, dtype=torch.int32, device="cuda", generator=generator)
    scales = randn(N, K // group_size, dtype=HALF, scale=2.0 ** (1 - bits) * K**-0.5)
    weight = QuantizedWeight(packed, scales, scales.roll(1) if minima else None, bits, group_size)
    at = torch.tensor(some(N, K), device="cuda")
    written = kernels.dequantize(weight, HALF)[at]
    torch.testing.assert_close(written, weight[at].dequantize(HALF), rtol=0, atol=0)
    x = randn(M, K, dtype=HALF)
    check(kernels.quantized_linear(x, weight)[:, at], "linear", x, weight[at].dequantize(torch.float64))


@pytest.mark.parametrize("q_heads", [1, 8])
def test_rotary_embedding(q_heads):
    """Catches a batch's or a position's offset of 32 bits, in q and in k, read and written."""
    need_memory(15)
    length = (1 << 20) + 3
    q, k = (randn(2, heads, length, 128) for heads in (q_heads, 9 - q_heads))
    cos = randn(length, 128, dtype=torch.float32)
    turned, at = kernels.rotary_embedding(q, k, cos, cos), some(length)
    check(tuple(t[:, :, at] for t in turned), "rotary_embedding", q[:, :, at], k[:, :, at], cos[at], cos[at])


@pytest.mark.parametrize("head_dim", [128, 100], ids=["Gluon on sm_90", "Triton"])
@pytest.mark.parametrize("shape", [(1, 32), (8200, 2)], ids=["long", "batch"])
def test_attention_of_many_queries(shape, head_dim):
    """Catches offsets of 32 bits into q, o and the log-sum-exps."""
    need_memory(20)
    batch, heads = shape
    length = BEYOND // (batch * heads * head_dim) + 5
    q, k, v = randn(*shape, length, head_dim), *(randn(batch, 1, 70, head_dim) for _ in range(2))
    o, lse = kernels.flash_attention(q, k, v, return_lse=True)
    at = some(length)
    for b in {0, batch // 2, batch - 1}:
        one = slice(b, b + 1)
        check((o[one, :, at], lse[one, :, at]), "flash_attention", q[one, :, at], k[one], v[one], return_lse=True)


@pytest.mark.parametrize("head_dim", [128, 100], ids=["Gluon on sm_90", "Triton"])
def test_attention_over_many_keys(head_dim):
    """Catches offsets of 32 bits into k and v. Some queries have one key each that they heed: lost among millions,
    nobody would miss it."""
    need_memory(35)
    heads, length = 8, BEYOND // (8 * head_dim) + 67
    q, k, v = randn(1, heads, 90, head_dim), *(randn(1, heads, length, head_dim) for _ in range(2))
    for i, key in enumerate(some(length)):
        k[:, :, key] = 3 * q[:, :, i]
    o = kernels.flash_attention(q, k, v)
    for h in (0, heads - 1):
        one = slice(h, h + 1)
        check(o[:, one], "flash_attention", q[:, one], k[:, one], v[:, one])


def test_varlen():
    """Catches a sequence's first query or first key at an offset of 32 bits."""
    need_memory(35)
    total, few = BEYOND // (8 * 128) + 67, 70

    def starts(*at: int) -> torch.Tensor:
        return torch.tensor(at, dtype=torch.int32, device="cuda")

    many, k, v = randn(total, 8, 128), *(randn(2 * few, 8, 128) for _ in range(2))
    cu_seqlens = starts(0, total - few, total), starts(0, few, 2 * few)
    o = kernels.flash_attention_varlen(many, k, v, *cu_seqlens, causal=True)
    last = starts(0, few)
    check(o[-few:], "flash_attention_varlen", many[-few:], k[few:], v[few:], last, last, causal=True)
    values = randn(total, 8, 128)
    o = kernels.flash_attention_varlen(k, many, values, *reversed(cu_seqlens), causal=True)
    check(o[few:], "flash_attention_varlen", k[few:], many[-few:], values[-few:], last, last, causal=True)


@pytest.mark.parametrize(("batch", "length"), [(16, 131_080), (1, 2_097_219)])
def test_a_large_cache(batch, length):
    """Catches offsets of 32 bits into the caches, where they are read and where the newest token is written."""
    need_memory(20)
    kv_heads, group, head_dim, hidden = 8, 4, 128, 64
    q = randn(batch, kv_heads * group, head_dim)
    keys, values = (randn(batch, kv_heads, length, head_dim) for _ in range(2))
    for g, key in enumerate((0, length // 2, length - 1)):
        keys[:, :, key] = 3 * q[:, g::group]
    lengths = torch.full((batch,), length, dtype=torch.int32, device="cuda")
    o = kernels.flash_decoding(q, keys, values, lengths)
    for b, h in {(0, 0), (batch // 2, 3), (batch - 1, kv_heads - 1)}:
        one, of_q, of_k = slice(b, b + 1), slice(h * group, (h + 1) * group), slice(h, h + 1)
        inputs = (q[one, of_q], keys[one, of_k], values[one, of_k], lengths[one])
        check(o[one, of_q], "flash_decoding", *inputs)
    x, norm = randn(batch, hidden), randn(hidden)
    weight = randn((group + 2) * kv_heads * head_dim, hidden, scale=hidden**-0.5)
    cos = randn(length, head_dim, dtype=torch.float32)
    before = [t[:, :, -2].clone() for t in (keys, values)]
    q = kernels.decode_qkv(x, weight, None, norm, 1e-5, cos, cos, lengths, keys, values)
    # To the oracle the newest token is the only one, at the last one's angles.
    small = [torch.zeros(batch, kv_heads, 1, head_dim, dtype=torch.float64, device="cuda") for _ in range(2)]
    here = (cos[-1:], cos[-1:], torch.ones_like(lengths))
    check(q, "decode_qkv", x, weight, None, norm, 1e-5, *here, *small)
    for ours, newest, untouched in zip((keys, values), small, before, strict=True):
        assert_close(ours[:, :, -1], newest[:, :, 0])
        assert torch.equal(ours[:, :, -2], untouched)
