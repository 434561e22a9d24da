"""``import --keep-quantized``: a GGUF file's own bits, and the model that runs on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize, quantize
from safetensors.torch import load_file

from pytriton_llama import reference
from pytriton_llama.errors import LlamaError
from pytriton_llama.kernels.quantized_weight import QuantizedWeight
from pytriton_llama.llama import checkpoint, fetch, gguf, gguf_reader, gguf_weights, tokenizer
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.generator import Llama
from pytriton_llama.llama.model import LlamaModel
from pytriton_llama.llama.scheme import Scheme
from tests.llama.test_gguf import HEADS, KV_HEADS, random_blocks, rotary_pairs, tiny_weights, write_tiny


def convert(folder, encode=None, weights=None, lines=None) -> LlamaConfig:
    write_tiny(folder / "tiny.gguf", weights or tiny_weights(tied=False), encode=encode)
    gguf.convert(folder / "tiny.gguf", folder / "out", True, progress=(lines if lines is not None else []).append)
    return LlamaConfig.from_folder(folder / "out")


def encoded(kind: str):
    """What gguf's own quantisation makes of a matrix."""
    return lambda array: (quantize(array, GGMLQuantizationType[kind]), GGMLQuantizationType[kind])


def in_turn(*kinds):
    """Each matrix of the next kind."""
    left = iter(kinds * 99)
    return lambda array: encoded(next(left))(array)


@pytest.mark.parametrize(
    ("name", "scheme"), [("Q4_0", Scheme(4, 32, False)), ("Q4_1", Scheme(4, 32, True)), ("Q8_0", Scheme(8, 32, False))]
)
def test_random_blocks_equal_gguf_s_own_values(name, scheme, tmp_path, monkeypatch):
    """Every pattern of bits, exactly. Catches the halves of bytes exchanged, a signed byte taken for an unsigned one,
    scale and minimum exchanged, rows of q or k in GGUF's order, anything rounded."""
    kind = GGMLQuantizationType[name]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    expected = []

    def encode(array):
        rows, columns = array.shape
        raw = random_blocks(kind, rows * columns // block).reshape(rows, columns // block * block_bytes)
        expected.append(torch.from_numpy(dequantize(raw, kind)))
        return raw, kind

    monkeypatch.setattr(gguf_weights, "_ROWS", 100)  # no divisor of anything
    lines: list[str] = []
    config = convert(tmp_path, encode, lines=lines)
    assert config.quantization == scheme and lines == []
    loaded = checkpoint.load(tmp_path / "out", config, "cpu", torch.float16)
    matrices = {name: w for name, w in loaded.items() if isinstance(w, QuantizedWeight)}
    for (name, weight), values in zip(matrices.items(), expected, strict=True):
        ours = weight.dequantize()
        if "q_proj" in name or "k_proj" in name:
            ours = torch.from_numpy(rotary_pairs(ours.numpy(), HEADS if "q_proj" in name else KV_HEADS))
        assert weight.form == (scheme.bits, 32, scheme.minima) and ours.equal(values), name


def test_nothing_else_is_lost(tmp_path):
    """Norms and float16 matrices among the quantised. Catches a detour over bf16, and biases packed or lost."""
    weights = tiny_weights(tied=False, bias=True)
    weights = {name: weight + 2**-12 * torch.rand(weight.shape) for name, weight in weights.items()}  # no bf16
    lines: list[str] = []
    config = convert(tmp_path, in_turn("F16", *["Q4_0"] * 20), weights, lines)
    assert lines == []
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["model.embed_tokens.weight"].dtype == torch.float16
    assert stored["model.embed_tokens.weight"].equal(weights["model.embed_tokens.weight"].half())
    loaded = checkpoint.load(tmp_path / "out", config, "cpu", torch.float32)
    assert all(loaded[name].equal(weight) for name, weight in weights.items() if weight.dim() == 1)


def test_other_types_are_said(tmp_path):
    """Catches a file of which half is expanded in silence, and a value that differs from the plain import's."""
    lines: list[str] = []
    config = convert(tmp_path, in_turn("Q5_0", "Q4_1", "Q4_1"), lines=lines)
    assert lines == ["Q5_0 cannot be kept: stored in bf16"] and config.quantization == Scheme(4, 32, True)
    gguf.convert(tmp_path / "tiny.gguf", tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    loaded = checkpoint.load(tmp_path / "out", config, "cpu", torch.bfloat16)
    for name, weight in loaded.items():
        values = weight if isinstance(weight, torch.Tensor) else weight.dequantize(torch.bfloat16)
        assert values.equal(plain[name]), name


def test_the_scheme_is_that_of_most_layers():
    """Catches that of the first tensor, and one that the embedding or the output has a say in."""
    kinds = {"token_embd": "Q8_0", "blk.0.attn_q": "Q4_0", "blk.0.attn_k": "Q4_1", "blk.0.attn_v": "Q4_1"}
    kinds |= {"blk.0.attn_norm": "F32", "output": "Q8_0", "output_norm": "Q8_0"}
    tensors = {name: SimpleNamespace(tensor_type=GGMLQuantizationType[kind]) for name, kind in kinds.items()}
    assert gguf_weights.scheme(tensors) == Scheme(4, 32, True)


def test_mixed_forms_run_as_their_values(tmp_path):
    """q, k, v, gate and up in different forms, or in none. Catches what only one form for all can do."""
    config = convert(tmp_path, in_turn("Q4_0", "Q8_0", "Q4_1", "Q5_1", "Q8_0"))
    ids = torch.tensor([5, 250, 7, 31])
    packed, wide = (Expansion(tmp_path / "out", config).model(expand) for expand in (False, True))
    torch.testing.assert_close(packed.logits(ids), wide.logits(ids))


@pytest.mark.parametrize("kind", [GGMLQuantizationType.F16, GGMLQuantizationType.Q4_K])
def test_refuses_a_file_without_any(kind, tmp_path):
    """Catches a folder that says it is quantised and is not."""
    block = GGML_QUANT_SIZES[kind][0]

    def encode(array):
        return random_blocks(kind, array.size // block).reshape(len(array), -1).view(np.uint8), kind

    with pytest.raises(LlamaError, match=rf"can be kept \(Q4_0, Q4_1, Q8_0\); they are .*{kind.name}"):
        convert(tmp_path, encode)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_refuses_numbers_that_are_none(kind, tmp_path):
    """Catches NaN scales that go into a folder, to be found when it is loaded."""

    def spoil(array):
        data, dtype = encoded(kind)(array)
        data[-1, -GGML_QUANT_SIZES[dtype][1] + 1] = 0xFE  # the last block's scale
        return data, dtype

    with pytest.raises(LlamaError, match=r"token_embd\.weight holds NaN"):
        convert(tmp_path, spoil)


class Expansion:
    """A folder's weights, packed or as the float32 numbers that they stand for."""

    def __init__(self, folder, config: LlamaConfig) -> None:
        self.folder, self.config = folder, config

    def model(self, expand: bool) -> LlamaModel:
        weights = checkpoint.load(self.folder, self.config, "cpu", torch.float32)
        if expand:
            weights = {n: w if isinstance(w, torch.Tensor) else w.dequantize() for n, w in weights.items()}
        return LlamaModel(self.config, weights, reference)


@pytest.fixture(scope="module")
def kept(smollm2, tmp_path_factory):
    """The default model's own file: Q4_1, with an embedding in Q8_0."""
    file = fetch.cache_dir() / f"{fetch.DEFAULT}.gguf"
    return fetch.import_gguf(file, tmp_path_factory.mktemp("kept") / "q", keep_quantized=True)


def test_smollm2_equals_gguf_s_own_values(kept):
    """Catches what random blocks do not have: a real file's names, heads and tied embedding."""
    config = LlamaConfig.from_folder(kept)
    loaded = checkpoint.load(kept, config, "cpu", torch.float32)
    tensors = gguf_reader.read(fetch.cache_dir() / f"{fetch.DEFAULT}.gguf")[1]
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in loaded.items():
        tensor = tensors[gguf_weights._gguf_name(name)]
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
        ours = weight if isinstance(weight, torch.Tensor) else weight.dequantize()
        for part, count in heads.items():
            if part in name:
                ours = torch.from_numpy(rotary_pairs(ours.numpy(), count))
        assert ours.equal(values.reshape(ours.shape)), name


def test_smollm2_packed_is_its_expansion(kept):
    """Perplexity to 4 digits, and greedy tokens, in the oracle. Catches a weight used in another form than it has."""
    config = LlamaConfig.from_folder(kept)
    speaks = tokenizer.load(kept, config)
    packed, wide = (Llama(Expansion(kept, config).model(expand), speaks) for expand in (False, True))
    text = "A kernel reads each weight once. Four bits are a quarter of sixteen: a token takes a quarter of the time."
    assert f"{packed.perplexity(text):.4g}" == f"{wide.perplexity(text):.4g}"
    prompt = "The capital of France is"
    found, expected = (llama.generate(prompt, max_new_tokens=24).token_ids for llama in (packed, wide))
    assert found == expected
    assert packed.model.bytes_per_token < 0.2 * wide.model.bytes_per_token
