import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pytriton_llama.kernels import rotary_embedding
from tests.tolerances import assert_close


def angles(randn, *shape):
    half = randn(*shape[:-1], shape[-1] // 2, scale=30)
    angle = torch.cat((half, half), dim=-1)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("heads", [(1, 1), (9, 3), (8, 1), (5, 5)], ids=str)
@pytest.mark.parametrize("head_dim", [16, 64, 80])
@pytest.mark.parametrize("length", [1, 37])
def test_as_transformers(heads, head_dim, length, dtype, randn):
    """Catches the interleaved layout, a sign, k turned with q's heads, padded heads or halves that are written,
    and the table's first half taken for both."""
    q = randn(2, heads[0], length, head_dim, dtype=dtype)
    k = randn(2, heads[1], length, head_dim, dtype=dtype)
    any_rotation = randn(length, head_dim), randn(length, head_dim)
    for cos, sin in (angles(randn, length, head_dim), angles(randn, 2, length, head_dim), any_rotation):
        batched = (cos.double().expand(2, -1, -1), sin.double().expand(2, -1, -1))
        oracle = apply_rotary_pos_emb(q.double(), k.double(), *batched)
        for actual, expected in zip(rotary_embedding(q, k, cos, sin), oracle, strict=True):
            assert_close(actual.contiguous(), expected)


def test_views_of_one_projection(randn):
    """Catches strides taken from the wrong tensor: q and k are slices of one (batch, length, heads, head_dim)."""
    qkv = randn(2, 19, 7, 32).transpose(1, 2)
    q, k, _ = qkv.split((4, 2, 1), dim=1)
    cos, sin = angles(randn, 19, 32)
    copies = rotary_embedding(q.contiguous(), k.contiguous(), cos, sin)
    for actual, expected in zip(rotary_embedding(q, k, cos, sin), copies, strict=True):
        assert torch.equal(actual, expected)


def test_a_rotation_keeps_lengths_and_depends_on_distance(randn):
    """Catches a table of positions that is off for q or for k alone: scores depend on the distance only."""
    q, k = randn(1, 1, 1, 32).expand(1, 1, 20, 32), randn(1, 1, 1, 32).expand(1, 1, 20, 32)
    frequencies = 1 / 100 ** (torch.arange(0, 32, 2, device=q.device) / 32)
    angle = torch.outer(torch.arange(20.0, device=q.device), frequencies).repeat(1, 2)
    turned_q, turned_k = rotary_embedding(q, k, angle.cos(), angle.sin())
    scores = (turned_q @ turned_k.transpose(-1, -2))[0, 0]
    assert torch.allclose(scores[1:, 1:], scores[:-1, :-1], atol=1e-4)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1), rtol=1e-5)


def test_empty_and_bad_arguments(randn):
    """Catches a launch with an empty grid, and angles in 16 bits."""
    cos, sin = angles(randn, 4, 16)
    q, k = randn(1, 2, 4, 16), randn(1, 1, 4, 16)
    assert rotary_embedding(q[:, :, :0], k[:, :, :0], cos[:0], sin[:0])[0].shape == (1, 2, 0, 16)
    with pytest.raises(ValueError, match="cos and sin"):
        rotary_embedding(q, k, cos[:3], sin[:3])
    with pytest.raises(TypeError, match="float32"):
        rotary_embedding(q, k, cos.half(), sin.half())
    for wrong in ((q.mT.contiguous().mT, k), (q, k.mT.contiguous().mT)):
        with pytest.raises(ValueError, match="last stride"):
            rotary_embedding(*wrong, cos, sin)


def test_shapes_that_do_not_fit_are_refused(randn):
    """Catches memory beside a tensor read: of a shorter table, of one that has fewer sequences, of a shorter k."""
    cos, sin = angles(randn, 4, 16)
    q, k = randn(2, 2, 4, 16), randn(2, 1, 4, 16)
    for wrong in (
        (q, k, cos, sin[:3]),
        (q, k, cos[None], sin[None]),
        (q, k[:1], cos, sin),
        (q, k[:, :, :3], cos, sin),
        (q, k[..., :8], cos, sin),
    ):
        with pytest.raises(ValueError, match="cos and sin"):
            rotary_embedding(*wrong)


def test_tables_of_any_strides(randn):
    """Catches a table read as if its rows lay one after the other."""
    cos, sin = angles(randn, 4, 16)
    q, k = randn(1, 2, 4, 16), randn(1, 1, 4, 16)
    strided = (t.repeat_interleave(2, 0)[::2] for t in (cos, sin))
    for actual, expected in zip(rotary_embedding(q, k, *strided), rotary_embedding(q, k, cos, sin), strict=True):
        assert torch.equal(actual, expected)
