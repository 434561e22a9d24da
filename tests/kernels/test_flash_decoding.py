import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytriton_llama import reference
from pytriton_llama.kernels import flash_decoding, tiles
from pytriton_llama.runtime import interpreted
from tests.tolerances import TOLERANCE


def check(q, k, v, lengths, **options):
    o = flash_decoding(q, k, v, lengths, **options)
    oracle = reference.flash_decoding(q.double(), k.double(), v.double(), lengths, **options)
    error = (o.double() - oracle).abs()
    largest = v.double().abs().nan_to_num(0.0).amax()
    assert bool((error <= 2 * TOLERANCE[q.dtype] * (oracle.abs() + largest)).all()), error.max()


def inputs(randn, dtype, batch, heads, kv_heads, max_length, head_dim, lengths):
    q = randn(batch, heads, head_dim, dtype=dtype)
    k, v = (randn(batch, kv_heads, max_length, head_dim, dtype=dtype) for _ in range(2))
    for b, length in enumerate(lengths):  # no one has written there yet
        k[b, :, length:], v[b, :, length:] = float("nan"), float("nan")
    return q, k, v, torch.tensor(lengths, dtype=torch.int32, device=q.device)


@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("heads", [(4, 4), (9, 3), (8, 1)], ids=str)
def test_lengths_of_their_own(head_dim, heads, dtype, randn):
    """Catches what lies beyond a length leaking in (it is NaN), 0 / 0 for length 0, one length used for all."""
    check(*inputs(randn, dtype, 5, *heads, 300, head_dim, [0, 1, 17, 299, 300]))


@pytest.mark.parametrize("pieces", [1, 2, 3, 8, 64])
@pytest.mark.parametrize(
    "lengths", [[0, 1, 40, 500, 33], [17, 17, 17], [0, 0], [500], [16, 1, 1, 1, 1, 1, 1, 1]], ids=str
)
def test_pieces(lengths, pieces, monkeypatch, randn):
    """Catches pieces that overlap or leave keys out, one program too few for them, a merge that mixes two sequences' or
    heads' pieces, and a counter that is not at zero for the second launch."""
    tile = {"BLOCK_B": 8, "BLOCK_N": 16, "BLOCK_D": 32, "BLOCK_G": 16, "MIN_STEPS": 1}
    monkeypatch.setattr(tiles, "flash_decoding", lambda *_: (pieces, tile))
    arguments = inputs(randn, torch.float32, len(lengths), 6, 2, 500, 32, lengths)
    for _ in range(2):
        check(*arguments)
        check(*arguments, window=37, scale=0.5)


@pytest.mark.parametrize("pieces", [1, 3])
def test_scores_below_zero(pieces, monkeypatch, randn):
    """Catches a running maximum that starts at 0, in a piece or where pieces are merged: each exp would be 0."""
    tile = {"BLOCK_B": 1, "BLOCK_N": 16, "BLOCK_D": 32, "BLOCK_G": 16, "MIN_STEPS": 1}
    monkeypatch.setattr(tiles, "flash_decoding", lambda *_: (pieces, tile))
    q, k, v, lengths = inputs(randn, torch.float32, 1, 2, 1, 90, 32, [90])
    check(q.abs(), -k.abs(), v, lengths, scale=10.0)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=3),
    window=st.none() | st.integers(1, 250),
    group=st.integers(1, 20),
)
def test_any_shape(lengths, window, group):
    """Catches a group larger than the smallest tile, and a window that reaches past the beginning."""
    generator = torch.Generator().manual_seed(sum(lengths) * 100 + group)
    device = "cpu" if interpreted() else "cuda"

    def randn(*shape, dtype):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    check(*inputs(randn, torch.float32, len(lengths), 2 * group, 2, 200, 32, lengths), window=window)


def test_strides(randn):
    """Catches strides mixed up between q, k and v, q's head or batch stride taken for its size, strided lengths."""
    q = randn(3, 2 * 6, 2 * 32)[:, ::2, :32]
    k, v = randn(3, 2, 300, 64)[..., :32], randn(300, 3, 2, 32).permute(1, 2, 0, 3)
    lengths = torch.tensor([300, 0, 17, 0, 299, 0], dtype=torch.int32, device=q.device)[::2]
    check(q, k, v, lengths)


def test_a_scale_of_zero(randn):
    """Catches it taken for none given: every key counts alike."""
    check(*inputs(randn, torch.float32, 2, 4, 2, 30, 32, [3, 30]), scale=0.0)


def test_bad_arguments_are_named(randn):
    """Catches lengths in int64 or of other sequences, a cache in another layout, heads that are dealt out to nobody."""
    q, k, v, lengths = inputs(randn, torch.float32, 2, 4, 2, 30, 32, [3, 30])
    with pytest.raises(TypeError, match="int32"):
        flash_decoding(q, k, v, lengths.long())
    with pytest.raises(ValueError, match="agree with q"):
        flash_decoding(q, k.transpose(1, 2), v, lengths)
    with pytest.raises(ValueError, match="must be positive"):
        flash_decoding(q, k, v, lengths, window=0)
    with pytest.raises(ValueError, match="lengths are"):
        flash_decoding(q, k, v, lengths[:1])
    with pytest.raises(ValueError, match="multiple of key/value heads"):
        flash_decoding(q[:, :3], k, v, lengths)
    with pytest.raises(ValueError, match="head_dim is 8"):
        flash_decoding(q[..., :8], k[..., :8], v[..., :8], lengths)
    for tensors in ((q.mT.contiguous().mT, k, v), (q, k.mT.contiguous().mT, v), (q, k, v.mT.contiguous().mT)):
        with pytest.raises(ValueError, match="last stride of 1"):
            flash_decoding(*tensors, lengths)
