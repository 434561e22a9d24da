import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytriton_llama import reference
from pytriton_llama.kernels import flash_attention, flash_attention_varlen
from pytriton_llama.runtime import interpreted
from tests.tolerances import TOLERANCE, assert_close

# Attention rounds its probabilities to 16 bits before the second product; in fp32 the scores' rounding is amplified
# by exp. Twice the tolerance of one rounding covers either.
ATTENTION = {dtype: 2 * tolerance for dtype, tolerance in TOLERANCE.items()}


# On an sm_90 the second is the Gluon kernel's.
BOTH_KERNELS = pytest.mark.parametrize(
    ("head_dim", "precision"), [(32, torch.float32), (64, torch.float16)], ids=["triton", "gluon"]
)


def check(q, k, v, **options):
    scale = options.get("scale") or q.shape[-1] ** -0.5
    o, lse = flash_attention(q, k, v, return_lse=True, **options)
    oracle, oracle_lse = reference.flash_attention(q.double(), k.double(), v.double(), return_lse=True, **options)
    assert o.dtype == q.dtype
    error = (o.double() - oracle).abs()
    # Outputs are averages of v: errors are measured against v's size, not against an average that may cancel.
    largest = v.double().abs().amax() if v.numel() else 0.0
    assert bool((error <= ATTENTION[q.dtype] * (oracle.abs() + largest)).all()), error.max()
    # A score is a sum that may cancel: its rounding is that of the sum of its terms' sizes.
    size = reference.flash_attention(q.abs(), k.abs(), v, return_lse=True, **options | {"scale": abs(scale)})[1]
    assert_close(lse, oracle_lse, size)


@pytest.mark.parametrize("head_dim", [16, 32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_head_dims(head_dim, causal, dtype, randn):
    """Catches head_dim taken as a power of two: the padding of 80 and 96 must be neither read nor written."""
    q, k, v = randn(2, 4, 70, head_dim, dtype=dtype), *(randn(2, 2, 70, head_dim, dtype=dtype) for _ in range(2))
    check(q, k, v, causal=causal)


@pytest.mark.parametrize(
    "lengths", [(1, 1), (1, 300), (300, 1), (257, 511), (300, 40), (128, 128), (600, 600)], ids=str
)
@pytest.mark.parametrize("options", [{}, *({"causal": True, "window": w} for w in (None, 33, 300))], ids=str)
@BOTH_KERNELS
def test_lengths(lengths, options, head_dim, precision, randn):
    """Catches an off-by-one diagonal, causal aligned to the start instead of the end, 0 / 0 for a query without keys,
    a skipped, unmasked or twice counted tile at the window's or the diagonal's edge (a window of 300 holds a tile)."""
    q, k, v = (randn(1, 2, lengths[i], head_dim, dtype=precision) for i in (0, 1, 1))
    check(q, k, v, **options)


@BOTH_KERNELS
@settings(max_examples=25, deadline=None)
@given(
    length_q=st.integers(1, 400),
    length_k=st.integers(0, 700),
    window=st.none() | st.integers(1, 500),
    group=st.integers(1, 5),
    causal=st.booleans(),
)
def test_any_shape(length_q, length_k, window, group, causal, head_dim, precision):
    """Catches whatever combination of the above nobody thought of."""
    generator = torch.Generator().manual_seed(length_q * 1000 + length_k)
    device = "cpu" if interpreted() else "cuda"
    q = torch.randn(1, 2 * group, length_q, head_dim, generator=generator).to(device, precision)
    k, v = (torch.randn(1, 2, length_k, head_dim, generator=generator).to(device, precision) for _ in range(2))
    check(q, k, v, causal=causal, window=window if causal else None)


@pytest.mark.parametrize("heads", [(8, 8), (9, 3), (8, 1)], ids=str)
def test_groups(heads, dtype, randn):
    """Catches query heads dealt out round robin instead of in runs."""
    q = randn(2, heads[0], 50, 64, dtype=dtype)
    check(q, *(randn(2, heads[1], 50, 64, dtype=dtype) for _ in range(2)), causal=True)


@BOTH_KERNELS
def test_scores_below_zero(head_dim, precision, randn):
    """Catches a running maximum that starts at 0: with every score near −200 each exp would be 0."""
    q, k = randn(1, 1, 40, head_dim, dtype=precision).abs(), -randn(1, 1, 300, head_dim, dtype=precision).abs()
    check(q, k, randn(1, 1, 300, head_dim, dtype=precision), scale=256 / head_dim)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_scale_that_is_not_positive(scale, randn):
    """Catches a maximum taken before scores are scaled, and −∞ · 0 where they are masked."""
    q, k, v = (randn(1, 2, 70, 64, dtype=torch.float16) for _ in range(3))
    check(q, k, v, causal=True, scale=scale)


@BOTH_KERNELS
def test_strides(head_dim, precision, randn):
    """Catches strides mixed up between q, k and v, in the first tile or from tile to tile: each has its own layout."""
    q = randn(2, 60, 4, head_dim, dtype=precision).transpose(1, 2)
    k = randn(2, 2, 300, 2 * head_dim, dtype=precision)[..., :head_dim]
    v = randn(300, 2, 2, head_dim, dtype=precision).permute(1, 2, 0, 3)
    check(q, k, v, causal=True, scale=0.3)


def test_strides_that_tma_cannot_take(randn):
    """Catches rows that start anywhere, handed to a kernel whose loads need multiples of 16 bytes."""
    q, k, v = (randn(1, 2, 40, 67, dtype=torch.float16)[..., 1:65] for _ in range(3))
    check(q, k, v, causal=True)
    check(q, *(t[:, :1].expand(1, 2, 40, 64) for t in (k, v)), causal=True)
    # Inputs that it could step along, and an o that it could not: 36 numbers a row.
    check(*(randn(1, 4, 100, 40, dtype=torch.float16)[..., :36] for _ in range(3)), causal=True)


@BOTH_KERNELS
def test_neighbours_do_not_leak(head_dim, precision, randn):
    """Catches a read across the end of one sequence or head into the next."""
    q, k, v = (randn(2, 2, 33, head_dim, dtype=precision) for _ in range(3))
    alone = flash_attention(q[:1], k[:1], v[:1], causal=True)
    k[1], v[1] = float("nan"), float("nan")
    assert torch.equal(flash_attention(q, k, v, causal=True)[:1], alone)


@BOTH_KERNELS
@pytest.mark.parametrize("causal", [False, True])
def test_rows_beyond_the_length_do_not_leak(causal, head_dim, precision, randn):
    """Catches 0 · NaN: what a cache holds behind its newest token has probability 0, and need not be finite."""
    q, k, v = (randn(2, 2, 200, head_dim, dtype=precision) for _ in range(3))
    k[:, :, 131:], v[:, :, 131:] = float("nan"), float("nan")
    check(q, k[:, :, :131], v[:, :, :131], causal=causal)


# (batch, heads, key/value heads, length, head_dim), at a sixteenth of the length where kernels are interpreted.
REAL = (
    (2, 8, 2, 4096, 64),
    (1, 8, 2, 4095, 128),
    (1, 4, 4, 4097, 64),
    (2, 3, 1, 127, 128),
    (2, 2, 2, 1, 64),
    (1, 1, 1, 16383, 64),
    (1, 1, 1, 16383, 128),
    (1, 4, 2, 2047, 80),
    (1, 4, 2, 2049, 96),
    (1, 4, 1, 1000, 256),
)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", REAL, ids=str)
def test_as_exact_as_torch(shape, causal, dtype, randn):
    """Catches sums or a rescaling in 16 bits: the error against float64 is at most 1.5 × that of torch's kernel."""
    batch, heads, kv_heads, length, head_dim = shape
    length = -(-length // 16) if interpreted() else length
    q = randn(batch, heads, length, head_dim, dtype=dtype)
    k, v = (randn(batch, kv_heads, length, head_dim, dtype=dtype) for _ in range(2))
    oracle = torch.empty_like(q, dtype=torch.float64)
    for h in range(heads):  # a head's scores at a time: in float64 all of them would fill a GPU
        one = (q[:, h, None], k[:, h * kv_heads // heads, None], v[:, h * kv_heads // heads, None])
        oracle[:, h, None] = reference.flash_attention(*(t.double() for t in one), causal)
    ours, torchs = (
        (o.double() - oracle).norm()
        for o in (
            flash_attention(q, k, v, causal),
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True),
        )
    )
    assert ours <= 1.5 * torchs


def test_bad_arguments_are_named(randn):
    """Catches an error from deep inside Triton, or garbage, where one line would do."""
    q, k = randn(1, 4, 8, 32), randn(1, 2, 8, 32)
    for match, arguments, options in (
        ("multiple", (q, k.repeat(1, 3, 1, 1)[:, :3], k.repeat(1, 3, 1, 1)[:, :3]), {}),
        ("head_dim is 8", (q[..., :8], k[..., :8], k[..., :8]), {}),
        ("needs causal", (q, k, k), {"window": 4}),
        ("positive", (q, k, k), {"window": 0, "causal": True}),
        ("must agree", (q, k, k[:, :, :5]), {}),
        ("must agree", (q, k.repeat(2, 1, 1, 1), k.repeat(2, 1, 1, 1)), {}),
        ("last stride", (q.mT.contiguous().mT, k, k), {}),
        ("last stride", (q, k.mT.contiguous().mT, k), {}),
        ("last stride", (q, k, k.mT.contiguous().mT), {}),
    ):
        with pytest.raises(ValueError, match=match):
            flash_attention(*arguments, **options)
    assert flash_attention(q[:, :, :0], k, k).shape == (1, 4, 0, 32)


def test_a_scale_of_zero(randn):
    """Catches it taken for none given: every key that a query sees counts alike."""
    q, k, v = randn(1, 4, 8, 32), randn(1, 2, 8, 32), randn(1, 2, 8, 32)
    means = v.cumsum(2) / torch.arange(1, 9, device=v.device)[:, None]
    assert_close(flash_attention(q, k, v, causal=True, scale=0.0), means.repeat_interleave(2, 1))


def packed(lengths_q, lengths_k, heads, kv_heads, head_dim, dtype, randn):
    """q, k, v and cumulative lengths of sequences one after the other."""
    q, k, v = (
        randn(sum(lengths), n, head_dim, dtype=dtype)
        for lengths, n in ((lengths_q, heads), (lengths_k, kv_heads), (lengths_k, kv_heads))
    )
    cu_seqlens = (torch.tensor([0, *lengths]).cumsum(0).to(q.device, torch.int32) for lengths in (lengths_q, lengths_k))
    return q, k, v, *cu_seqlens


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "window": 33}], ids=str)
@pytest.mark.parametrize(
    "lengths", [([5], [5]), ([1, 300, 0, 70], [1, 300, 40, 90]), ([0, 0, 257, 256], [3, 0, 257, 1])], ids=str
)
def test_varlen(lengths, options, dtype, randn):
    """Catches a block with queries of two sequences, keys of a neighbour, an empty sequence that shifts the others, and
    causal aligned to the packed tensor's end."""
    inputs = packed(*lengths, 4, 2, 64, dtype, randn)
    o = flash_attention_varlen(*inputs, **options)
    oracle = reference.flash_attention_varlen(*(t.double() for t in inputs[:3]), *inputs[3:], **options)
    largest = inputs[2].double().abs().amax()
    assert bool(((o.double() - oracle).abs() <= ATTENTION[dtype] * (oracle.abs() + largest)).all())


def test_varlen_is_independent_of_neighbours(randn):
    """Catches a result that depends on what is packed beside it, or that differs from the sequence's alone."""
    q, k, v, cu_q, cu_k = packed([40, 33, 7], [40, 50, 7], 4, 2, 32, torch.float32, randn)
    alone = flash_attention(*(t[40:].transpose(0, 1)[None] for t in (q[:73], k[:90], v[:90])), causal=True)
    k[:40], v[:40], k[90:], v[90:] = (float("nan"),) * 4
    o = flash_attention_varlen(q, k, v, cu_q, cu_k, causal=True)
    assert_close(o[40:73], alone[0].transpose(0, 1))


def test_varlen_many_sequences(randn):
    """Catches a search that stops at a power of two, or that is lost among empty sequences."""
    lengths = [3, 0, 1, 17, 2, 0, 0, 33, 5] * 4
    inputs = packed(lengths, lengths, 2, 1, 16, torch.float32, randn)
    oracle = reference.flash_attention_varlen(*(t.double() for t in inputs[:3]), *inputs[3:], causal=True)
    assert_close(flash_attention_varlen(*inputs, causal=True), oracle)


def test_varlen_bad_arguments_are_named(randn):
    """Catches lengths in 64 bits read as pairs of 32."""
    q, k, v, cu_q, cu_k = packed([4, 4], [4, 4], 2, 2, 16, torch.float32, randn)
    with pytest.raises(TypeError, match="cu_seqlens_k is"):
        flash_attention_varlen(q, k, v, cu_q, cu_k.long())
    with pytest.raises(ValueError, match="sequences"):
        flash_attention_varlen(q, k, v, cu_q, cu_k[:-1])
    assert flash_attention_varlen(q[:0], k[:0], v[:0], cu_q[:1], cu_k[:1]).shape == (0, 2, 16)


def test_varlen_strided_lengths(randn):
    """Catches cumulative lengths read as if they lay side by side."""
    q, k, v, cu_q, cu_k = packed([4, 9], [4, 9], 2, 2, 16, torch.float32, randn)
    strided = (t.repeat_interleave(2)[::2] for t in (cu_q, cu_k))
    assert torch.equal(flash_attention_varlen(q, k, v, *strided), flash_attention_varlen(q, k, v, cu_q, cu_k))
