import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytriton_llama import reference
from pytriton_llama.kernels import decode_linear, decode_qkv, tiles
from pytriton_llama.runtime import interpreted
from tests.tolerances import assert_close

# The interpreter takes tensor-core products even for one row; this is the other kernel, in its smallest form.
ONE_ROW = {"SLICES": 1, "BLOCK_M": 1, "BLOCK_N": 2, "BLOCK_K": 64}
SLICED = {"SLICES": 2, "BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 64}


@pytest.fixture(params=[1, 2, 7, 16, 17])
def rows(request, monkeypatch) -> int:
    """Rows of x, with tiles as small as on a GPU: several programs, several steps along K."""
    if interpreted():
        monkeypatch.setattr(tiles, "decode_linear", lambda M, *_: ONE_ROW if M == 1 else SLICED)
        monkeypatch.setattr(tiles, "fuses_qkv", lambda M: M <= tiles.DECODE_ROWS)
    return request.param


def doubles(options: dict) -> dict:
    return {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in options.items()}


@pytest.mark.parametrize("K", [64, 100, 576])
@pytest.mark.parametrize("options", ["bare", "bias residual", "norm", "norm bias residual", "norm up", "up residual"])
def test_against_fp64(options, K, rows, dtype, randn):
    """Catches 1/rms of a part of a row, a norm's weight or residual left out or applied on the wrong side of SiLU, K's
    overhang taken for data, a bias under the mask of another column."""
    N = 50
    x, weight = randn(rows, K, dtype=dtype), randn(N, K, dtype=dtype, scale=K**-0.5)
    all_options = {
        "bias": randn(N, dtype=dtype),
        "residual": randn(rows, N, dtype=dtype),
        "up_weight": randn(N, K, dtype=dtype, scale=K**-0.5),
        "norm_weight": randn(K, dtype=dtype),
    }
    given_options = {name: t for name, t in all_options.items() if name.split("_")[0] in options}
    y = decode_linear(x, weight, eps=1e-3, **given_options)
    oracle = reference.decode_linear(x.double(), weight.double(), eps=1e-3, **doubles(given_options))
    # The norm's weight times the other factor is rounded before the product: a whole row's roundings add up.
    assert_close(y, oracle, size=oracle.abs().amax(-1, keepdim=True) + (2 if "norm" in options else 0))


def test_large_values_in_float16(rows, randn):
    """Catches a product of x and the norm's weight that is formed in float16: it passes 65504, y does not."""
    K = 256
    x = randn(rows, K, dtype=torch.float16).sign() * 6e4
    weight, norm_weight = randn(32, K, dtype=torch.float16, scale=K**-0.5), randn(K, dtype=torch.float16).abs() + 1
    y = decode_linear(x, weight, norm_weight=norm_weight)
    assert_close(y, reference.decode_linear(x.double(), weight.double(), norm_weight=norm_weight.double()))


def test_large_weights_in_float16(rows, randn):
    """Catches the product of both weights formed in float16: it passes 65504, and no term of y does."""
    K = 256
    small = torch.arange(K, device=randn(1).device) % 2 * (2.0**-9 - 1) + 1  # every second column
    x, norm_weight = ((randn(*s) * by).half() for s, by in (((rows, K), small), ((K,), 1 / small)))
    weight = (randn(32, K, scale=K**-0.5) / small).half()
    y = decode_linear(x, weight, norm_weight=norm_weight)
    oracle = reference.decode_linear(x.double(), weight.double(), norm_weight=norm_weight.double())
    assert (norm_weight.double() * weight.double()).abs().max() > 65504 and oracle.abs().max() < 65504
    assert_close(y, oracle, size=oracle.abs().amax(-1, keepdim=True) + 2)


@settings(max_examples=20, deadline=None)
@given(M=st.integers(1, 20), N=st.integers(1, 70), K=st.sampled_from((1, 33, 100, 300)))
def test_any_shape(M, N, K):
    """Catches a tile that reaches past N or K. With the tiles of this machine."""
    generator = torch.Generator().manual_seed(M * 1000 + N)
    device = "cpu" if interpreted() else "cuda"
    x, weight, up = (torch.randn(n, K, generator=generator).to(device) for n in (M, N, N))
    norm = torch.randn(K, generator=generator).to(device)
    y = decode_linear(x, weight, norm_weight=norm, up_weight=up)
    oracle = reference.decode_linear(x.double(), weight.double(), None, norm.double(), up_weight=up.double())
    assert_close(y, oracle, size=oracle.abs().amax(-1, keepdim=True) + K**0.5)


def qkv_inputs(randn, dtype, rows, heads, kv_heads, head_dim, hidden=96, max_length=12):
    N = (heads + 2 * kv_heads) * head_dim
    # Each in a layout of its own: (rows, kv_heads, max_length, head_dim), and (max_length, rows, …).
    k_cache = torch.full((rows, kv_heads, max_length, head_dim), float("nan"), dtype=dtype)
    v_cache = torch.full((max_length, rows, kv_heads, head_dim), float("nan"), dtype=dtype).permute(1, 2, 0, 3)
    x = randn(rows, hidden, dtype=dtype)
    lengths = (torch.arange(rows, dtype=torch.int32) * 5) % (max_length + 1)
    return (
        x,
        randn(N, hidden, dtype=dtype, scale=hidden**-0.5),
        randn(N, dtype=dtype),
        randn(hidden, dtype=dtype),
        1e-5,
        randn(max_length, head_dim),
        randn(max_length, head_dim),
        lengths.to(x.device),
        k_cache.to(x.device),
        v_cache.to(x.device),
    )


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (3, 1, 80), (2, 2, 64)])
def test_qkv(heads, kv_heads, head_dim, rows, dtype, randn):
    """Catches partners of a turn taken side by side, v turned as well, a position off by one, a head's k in another
    head's place, k's strides for v's cache, anything written for a sequence without tokens or beside the newest token
    (there it stays NaN)."""
    arguments = qkv_inputs(randn, dtype, rows, heads, kv_heads, head_dim)
    doubled = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
    q, oracle = decode_qkv(*arguments), reference.decode_qkv(*doubled)
    there = arguments[7] > 0
    for actual, expected in ((q[there], oracle[there]), *zip(arguments[-2:], doubled[-2:], strict=True)):
        expected_size = expected.abs().nan_to_num().amax().reshape([1] * expected.dim()) if expected.numel() else None
        assert_close(actual, expected, size=expected_size)


def test_qkv_apart(dtype, randn):
    """The same where the products are another kernel's, as in the interpreter and beyond 16 sequences."""
    test_qkv(4, 2, 16, 20, dtype, randn)


def test_qkv_without_bias(randn, rows):
    """Catches a bias that is read where there is none."""
    arguments = list(qkv_inputs(randn, torch.float32, rows, 4, 2, 16))
    arguments[2] = None
    there = arguments[7] > 0
    q, oracle = decode_qkv(*arguments), reference.decode_qkv(*arguments)
    assert_close(q[there], oracle[there])


def test_bad_arguments_are_named(randn):
    """Catches rows that lie apart (they would be read as if they did not), and a bias that is silently dropped."""
    x, weight = randn(2, 64), randn(8, 64)
    for call, message in (
        (lambda: decode_linear(x, weight[:, :32]), "needed: "),
        (lambda: decode_linear(x[:, :0], weight[:, :0]), "K above 0"),
        (lambda: decode_linear(randn(2, 128)[:, ::2], weight), "x must be contiguous"),
        (lambda: decode_linear(x, weight, bias=randn(8), up_weight=weight), "exclude each other"),
        (lambda: decode_linear(x, weight, residual=x), "residual must be"),
        (lambda: decode_linear(x, weight, norm_weight=randn(8)), "norm_weight must be"),
        (lambda: decode_qkv(*qkv_inputs(randn, torch.float32, 2, 4, 2, 15)), "must be even"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    arguments = list(qkv_inputs(randn, torch.float32, 2, 4, 2, 16))
    for i in (8, 9):
        wrong = [*arguments[:i], arguments[i].transpose(2, 3).contiguous().transpose(2, 3), *arguments[i + 1 :]]
        with pytest.raises(ValueError, match="last stride of 1"):
            decode_qkv(*wrong)
        wrong = [*arguments[:i], arguments[i][:, :, :1].expand(arguments[i].shape), *arguments[i + 1 :]]
        with pytest.raises(ValueError, match="is expanded"):
            decode_qkv(*wrong)
    for i, message in ((7, "lengths are"), (5, "cos is")):
        wrong = [*arguments[:i], arguments[i].double(), *arguments[i + 1 :]]
        with pytest.raises(TypeError, match=message):
            decode_qkv(*wrong)


def apart(t: torch.Tensor) -> torch.Tensor:
    """The same numbers, not side by side."""
    return torch.stack((t, t), -1)[..., 0]


def test_tensors_that_lie_apart_are_refused(randn):
    """Catches one of them read as if its elements lay side by side."""
    all_tensors = {"x": randn(2, 64), "weight": randn(8, 64), "norm_weight": randn(64), "residual": randn(2, 8)}
    for added in ({"bias": randn(8)}, {"up_weight": randn(8, 64)}):
        for name, t in (all_tensors | added).items():
            with pytest.raises(ValueError, match=f"{name} must be contiguous"):
                decode_linear(**all_tensors | added | {name: apart(t)})
    arguments = qkv_inputs(randn, torch.float32, 2, 4, 2, 16)
    for i, name in {0: "x", 1: "weight", 2: "bias", 3: "norm_weight", 5: "cos", 6: "sin", 7: "lengths"}.items():
        with pytest.raises(ValueError, match=f"{name} must be contiguous"):
            decode_qkv(*arguments[:i], apart(arguments[i]), *arguments[i + 1 :])


def test_shapes_that_do_not_fit_are_refused(randn):
    """Catches memory beside a tensor read or written, and a result that broadcasts."""
    x, weight = randn(2, 64), randn(8, 64)
    for options, message in (
        ({"up_weight": weight[:4]}, "up_weight must be"),
        ({"residual": randn(2, 4)}, "residual must be"),
        ({"bias": randn(4)}, "bias must be"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_linear(x, weight, **options)
    arguments = qkv_inputs(randn, torch.float32, 2, 4, 2, 16)
    weight, bias, cos, sin, lengths, k, v = (arguments[i] for i in (1, 2, 5, 6, 7, 8, 9))
    for changes, message in (
        ({1: weight[:-1].contiguous(), 2: None}, "weight has 127 rows"),
        ({1: weight[:64], 2: None}, "weight has 64 rows"),  # k's and v's alone
        ({2: bias[:-1]}, "bias must be"),
        ({5: cos[:-1]}, "cos is"),
        ({6: sin[:, :-2].contiguous()}, "sin is"),
        ({7: lengths[:1]}, "lengths are"),
        ({9: v[:, :1]}, "v_cache"),
        ({8: k[:1], 9: v[:1]}, "k_cache"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_qkv(*(changes.get(i, argument) for i, argument in enumerate(arguments)))
