"""Weights to 8 and 4 bits: as near as can be, never worse by the search, in a folder that loads like any other."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytriton_llama import Llama
from pytriton_llama.errors import LlamaError
from pytriton_llama.kernels.quantized_weight import QuantizedWeight, unpack
from pytriton_llama.llama import checkpoint, fetch, quantize, shards
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.scheme import Scheme
from tests.llama.broken import save_tiny

FORMS = [(4, 32, False), (4, 32, True), (4, 128, False), (4, 128, True), (8, 32, True), (8, 128, False)]
# Rows that 4 and 8 bits suit; save_tiny's own sizes don't.
SIZES = {"hidden_size": 64, "intermediate_size": 96}


def random_weight(rows: int = 24, columns: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def group_errors(weight: torch.Tensor, result: QuantizedWeight) -> torch.Tensor:
    errors = result.dequantize(torch.float64) - weight.double()
    return errors.square().unflatten(1, (-1, result.group_size)).sum(-1)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("bits", "group_size", "minima"), FORMS)
def test_every_weight_takes_the_nearest_value(bits, group_size, minima, clip):
    """Beside all 2^bits values of its group. Catches a floor for a round, a value never used, rounding by another scale
    than the one stored, groups exchanged."""
    weight = random_weight()
    result = quantize.quantize(weight, bits, group_size, minima, clip)
    assert result.form == (bits, group_size, minima) and result.shape == weight.shape
    low = result.minima.double() if minima else -(2 ** (bits - 1)) * result.scales.double()
    values = low[..., None] + torch.arange(2**bits) * result.scales.double()[..., None]
    distances = (weight.double().unflatten(1, (-1, group_size))[..., None] - values[:, :, None]).abs()
    nearest = distances.min(-1).values
    found = (result.dequantize(torch.float64) - weight.double()).abs().unflatten(1, (-1, group_size))
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("bits", "group_size", "minima"), FORMS)
def test_rounding_takes_the_range_of_the_weights(bits, group_size, minima):
    """Catches a range that is cut or too wide: an end of it is a weight, as near as float16 has it."""
    weight = random_weight()
    result = quantize.quantize(weight, bits, group_size, minima, clip=False)
    groups, q = weight.unflatten(1, (-1, group_size)), unpack(result.packed, bits).unflatten(1, (-1, group_size))
    if minima:
        assert (q.amin(-1) == 0).all() and (q.amax(-1) == 2**bits - 1).all()
    else:
        assert (q.gather(2, groups.abs().argmax(-1, keepdim=True)) == 0).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), form=st.sampled_from(FORMS), size=st.floats(-4, 3), freedom=st.floats(1, 20))
def test_clip_is_never_worse(seed, form, size, freedom):
    """In any group, of light tails or heavy. Catches errors of scales that float16 changes afterwards, and a search
    that keeps its last."""
    torch.manual_seed(seed)
    weight = torch.distributions.StudentT(freedom).sample((8, 256)).clamp(-1e3, 1e3) * 10**size
    weight = weight.clamp(-3e4, 3e4)  # minima are float16
    clipped, rounded = (group_errors(weight, quantize.quantize(weight, *form, clip)) for clip in (True, False))
    assert (clipped <= rounded * (1 + 1e-5)).all()  # the search sums in float32


def test_clip_gains_on_gaussian_weights():
    """Catches a search that finds nothing, or that leaves out least squares: the squared error falls by 11 to 15 %."""
    weight = random_weight(64, 1024)
    for group_size, minima, gain in ((32, False, 0.1), (32, True, 0.13), (128, False, 0.11), (128, True, 0.12)):
        clipped, rounded = (
            float(group_errors(weight, quantize.quantize(weight, 4, group_size, minima, clip)).sum())
            for clip in (True, False)
        )
        assert clipped < (1 - gain) * rounded, (group_size, minima)


def test_a_fine_grid_finds_little_more():
    """Catches shares that stop above the best range, and least squares gone wrong: beside 400 symmetric ranges."""
    weight = random_weight(16, 1024)
    groups = weight.double().unflatten(1, (-1, 128))
    extreme = groups.gather(2, groups.abs().argmax(-1, keepdim=True))
    best = torch.full(groups.shape[:2], torch.inf, dtype=torch.float64)
    for share in torch.linspace(0.3, 1.3, 400):
        scale = -extreme / 8 * share
        best = best.minimum(((groups / scale).round().clamp(-8, 7) * scale - groups).square().sum(-1))
    assert group_errors(weight, quantize.quantize(weight, 4, 128)).sum() < 1.01 * best.sum()


def test_errors_of_eight_bits():
    """Catches 8 bits of which fewer are used: the error of uniform steps is 1/√12 of one, here 2 · 4.3 σ / 256 wide."""
    weight = random_weight(16, 4096)
    error = group_errors(weight, quantize.quantize(weight, 8, 4096)).sum().sqrt() / weight.norm()
    assert 0.006 < error < 0.0105


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("minima", [False, True])
def test_groups_without_a_range(minima, clip):
    """Catches 0 / 0: zeros stay zeros, and one value, with a minimum, is as near as float16 has it."""
    weight = torch.zeros(2, 64)
    weight[1, 32:] = 0.3
    found = quantize.quantize(weight, 4, 32, minima, clip).dequantize()
    torch.testing.assert_close(found, weight, rtol=5e-4, atol=0)


@pytest.mark.parametrize(("bits", "group_size", "minima"), FORMS)
def test_ends_of_float16(bits, group_size, minima):
    """Catches infinite scales stored, and NaN of scales that are 0 in float16."""
    weight = random_weight() * 50
    with pytest.raises(LlamaError, match=r"weights up to \S+e\+.. need scales beyond float16"):
        quantize.quantize(weight * 1e10, bits, group_size, minima)
    found = quantize.quantize(weight * 1e-9, bits, group_size, minima).dequantize()
    assert found.abs().max() < 1e-6


def test_rows_at_a_time(monkeypatch):
    """Catches rows lost or exchanged where a weight does not fit into one piece."""
    weight = random_weight(23)
    whole = quantize.quantize(weight, 4, 64, True)
    monkeypatch.setattr(quantize, "_WEIGHTS", 1000)
    pieces = quantize.quantize(weight, 4, 64, True)
    assert all(a.equal(b) for a, b in zip(whole.tensors, pieces.tensors, strict=True))


def test_rows_that_are_no_groups():
    with pytest.raises(ValueError, match="rows of 96 weights do not consist of groups of 64"):
        quantize.quantize(torch.ones(2, 96), 4, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_loads_like_any_other(dtype, tied, tmp_path, monkeypatch):
    """Catches biases or norms changed, a linear layer left out, the embedding in 4 bits, parts of a weight in two
    files not found, a tokenizer or template left behind."""
    saved = save_tiny(tmp_path / "a", dtype=dtype, tie_word_embeddings=tied, attention_bias=True, **SIZES)
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    (tmp_path / "a" / "chat_template.jinja").write_text("hi")
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    lines: list[str] = []
    folder = fetch.quantize(tmp_path / "a", tmp_path / "b", 4, 32, minima=True, clip=True, progress=lines.append)
    assert len(list(folder.glob("*.safetensors"))) > 3
    assert {f.name for f in folder.iterdir()} > {"tokenizer.json", "chat_template.jinja", "generation_config.json"}
    config = LlamaConfig.from_folder(folder)
    assert config.quantization == Scheme(4, 32, True)
    loaded = checkpoint.load(folder, config, "cpu", torch.float32)
    assert loaded.keys() == saved.keys() - ({"lm_head.weight"} if tied else set())
    for name, weight in loaded.items():
        if saved[name].dim() == 1:
            assert torch.equal(weight, saved[name].float()), name
            continue
        outer = "embed" in name or "lm_head" in name
        expected = quantize.quantize(saved[name], *((8, 64, False) if outer else (4, 32, True)))
        assert weight.form == expected.form
        assert all(a is b is None or a.equal(b) for a, b in zip(weight.tensors, expected.tensors, strict=True)), name
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    total = sum(weight.nbytes for weight in loaded.values())
    assert total < stored < total + 40_000 and f"{total / 1e6:,.1f} MB of weights, were" in lines[-1]


def test_it_speaks(tmp_path):
    """A real model in 8 bits still does; in the oracle, from the program's own defaults."""
    llama = Llama.from_pretrained(fetch.quantize(fetch.DEFAULT, tmp_path / "q", 8), kernels="torch")
    assert llama.chat("What is the capital of France?").text == "The capital of France is Paris."
    assert "8 bits in rows, computed in float32" in repr(llama)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 128}, "group_size is 128, rows have 64 and 96 weights: what works in 4 bits is 32"),
        ({"group_size": 16}, "group_size is 16"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": -32}, "group_size is -32"),
        ({"bits": 8, "group_size": 24}, "what works in 8 bits is 32"),
        ({"bits": 3}, "bits must be 4 or 8, got 3"),
    ],
)
def test_refuses_groups_by_what_works(options, message, tmp_path):
    """Before a weight is read. Catches a division by 0, and a group that a thread's 16 bytes do not divide."""
    save_tiny(tmp_path / "a", **SIZES)
    with pytest.raises(LlamaError, match=message):
        fetch.quantize(tmp_path / "a", tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()


def test_refuses_weights_by_name(tmp_path):
    """Catches infinite scales, and a checkpoint quantised twice."""
    folder = tmp_path / "a"
    state = save_tiny(folder, **SIZES)
    name = "model.layers.1.mlp.up_proj.weight"
    state[name][3, 5] = 1e30
    shards.write(state.items(), folder)
    with pytest.raises(LlamaError, match=rf"{name}: weights up to 1e\+30 need scales beyond float16"):
        fetch.quantize(folder, tmp_path / "b")
    state[name][3, 5] = torch.nan
    shards.write(state.items(), folder)
    with pytest.raises(LlamaError, match=rf"{name} holds NaN"):
        fetch.quantize(folder, tmp_path / "b")
    state[name][3, 5] = 0
    shards.write(state.items(), folder)
    fetch.quantize(folder, tmp_path / "b")
    with pytest.raises(LlamaError, match=r"is quantised already \(4 bits in groups of 32\)"):
        fetch.quantize(tmp_path / "b", tmp_path / "c")


def test_folders(tmp_path, monkeypatch):
    """Catches a folder written over, one made twice, and the folder of other options or of a changed model taken."""
    monkeypatch.setenv("PYTRITON_LLAMA_CACHE", str(tmp_path / "cache"))
    save_tiny(tmp_path / "a", **SIZES)
    with pytest.raises(LlamaError, match="exists already"):
        fetch.quantize(tmp_path / "a", tmp_path)
    lines: list[str] = []
    made = [fetch.quantize(tmp_path / "a", bits=bits, clip=clip, progress=lines.append)
            for bits in (4, 8, 4) for clip in (True, False)]  # fmt: skip
    assert len(set(made)) == len(lines) == 4 and made[:2] == made[4:]
    shutil.rmtree(tmp_path / "a")
    save_tiny(tmp_path / "a", **SIZES, tie_word_embeddings=True)
    assert fetch.quantize(tmp_path / "a") not in made
    assert {folder.parent for folder in made} == {tmp_path / "cache"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_leaves_nothing(error, tmp_path, monkeypatch):
    """Catches a folder of weights without a config that the next start takes for a model."""
    save_tiny(tmp_path / "a", **SIZES)

    def copyfile(*_):
        raise error

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else LlamaError):
        fetch.quantize(tmp_path / "a", tmp_path / "new" / "b")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("minima", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_random_weights(bits, minima):
    """Catches a mean beside 0, which makes all logits alike, q that never set a word's sign, a seed not used."""
    scheme = {"quant_method": "pytriton_llama", "bits": bits, "group_size": 32, "minima": minima}
    config = LlamaConfig.from_dict(
        {"model_type": "llama", "vocab_size": 512, "num_hidden_layers": 1, "num_attention_heads": 8}
        | {"hidden_size": 256, "intermediate_size": 512, "quantization_config": scheme}
    )
    weights, again, other = (checkpoint.random(config, "cpu", torch.float32, seed) for seed in (1, 1, 2))
    assert weights["lm_head.weight"].form == (8, 256, False)
    for name, weight in weights.items():
        if isinstance(weight, torch.Tensor):
            assert (weight == 1).all(), name
            continue
        values, count = weight.dequantize(), weight.shape.numel()
        assert values.std() == pytest.approx(0.02, rel=0.02), name
        assert abs(values.mean()) < 5 * 0.02 / count**0.5 + 5 * 0.02 / 2**bits / weight.scales.numel() ** 0.5, name
        assert weight.packed.equal(again[name].packed) and not weight.packed.equal(other[name].packed)
        assert unpack(weight.packed, weight.bits).unique().numel() == 2**weight.bits, name
