"""GGUF to Hugging Face's layout: equal to transformers' own GGUF loader, and to files made here; others refused."""

import json
import math
import struct

import numpy as np
import pytest
import torch
import transformers
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, dequantize
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import checkpoint, fetch, gguf, gguf_weights, shards, tokenizer
from pytriton_llama.llama.config import LlamaConfig, RopeScaling

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INTER, VOCAB = 16, 8, 16, 256, 512, 260  # K-quants have blocks of 256
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
METADATA = {
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INTER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 12345.0,
    "llama.rope.dimension_count": HEAD_DIM,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{{ messages[0].content }}",
}


def tiny_weights(tied=True, bias=False) -> dict[str, torch.Tensor]:
    """Random weights under Hugging Face's names, of values that bf16 holds."""
    config = LlamaConfig.from_dict(
        {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INTER}
        | {"num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
        | {"tie_word_embeddings": tied, "attention_bias": bias, "mlp_bias": bias}
    )
    generator = torch.Generator().manual_seed(3)
    shapes = checkpoint.expected_shapes(config)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def rotary_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Row 2i and 2i + 1 of a head are what Hugging Face has in rows i and i + half a head."""
    half = weight.shape[0] // heads // 2
    rows = [h * 2 * half + side * half + i for h in range(heads) for i in range(half) for side in (0, 1)]
    return weight[rows]


def write_tiny(path, weights, metadata=METADATA, architecture="llama", encode=None):
    """``encode(array)`` gives what stands for a matrix: its bytes and their type."""
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(key, value)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "he"]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    inner = {hf: ours for ours, hf in NAMES.items()}
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, tensor in weights.items():
        stem, _, kind = name.rpartition(".")
        array = tensor.float().numpy()
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            stem = f"blk.{layer}.{inner.get(part, part)}"
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                array = rotary_pairs(array, HEADS if part == "self_attn.q_proj" else KV_HEADS)
        else:
            stem = outer.get(stem, stem)
        data, dtype = encode(array) if encode and array.ndim == 2 else (array, None)
        writer.add_tensor(f"{stem}.{kind}", data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(folder, **options):
    options = {"weights": tiny_weights()} | options
    write_tiny(folder / "tiny.gguf", **options)
    gguf.convert(folder / "tiny.gguf", folder / "out")
    return folder / "out"


def test_equals_transformers_own_loader(smollm2):
    """Catches q or k left in GGUF's rotary order, a wrong block layout, an embedding transposed."""
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(smollm2))
    theirs = load_gguf_checkpoint(fetch.cache_dir() / f"{fetch.DEFAULT}.gguf", True, model)["tensors"]
    ours = load_file(smollm2 / "model.safetensors")
    for name, tensor in ours.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, theirs[name].bfloat16()), name
    assert theirs.keys() == ours.keys()


def test_smollm2_config(smollm2):
    """Catches 9.999999747378752e-06 for 1e-5, and an untied output that is not in the file."""
    values = json.loads((smollm2 / "config.json").read_text())
    assert values["rms_norm_eps"] == 1e-5 and values["rope_theta"] == 100000.0
    assert values["tie_word_embeddings"] is True and values["architectures"] == ["LlamaForCausalLM"]
    generation = json.loads((smollm2 / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (1, 2)
    # transformers opens the folder too
    assert transformers.AutoConfig.from_pretrained(smollm2).num_key_value_heads == 3


@pytest.mark.parametrize("tied", [True, False])
def test_gives_back_what_was_written(tied, tmp_path):
    """Catches q permuted by the number of key-value heads or the reverse, and a lost untied output."""
    weights = tiny_weights(tied)
    out = convert(tmp_path, weights=weights)
    config = LlamaConfig.from_folder(out)
    assert (config.rope_theta, config.rms_norm_eps, config.tie_word_embeddings) == (12345.0, 1e-5, tied)
    loaded = checkpoint.load(out, config, "cpu", torch.bfloat16)
    assert loaded.keys() == weights.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, weights[name]), name
    tok = tokenizer.load(out, config)
    assert tok.decode(tok.chat([{"role": "user", "content": "hé 12"}])) == "hé 12"
    assert len(tok.encode("he")) == 1


def random_blocks(kind: GGMLQuantizationType, count: int) -> np.ndarray:
    """Bytes of ``count`` blocks of moderate values: every bit pattern of the quants, most of the scales."""
    generator = np.random.default_rng(kind.value)
    found: list[np.ndarray] = []
    while len(found) < count:
        blocks = generator.integers(0, 256, (count, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        with np.errstate(all="ignore"):
            values = np.abs(dequantize(blocks, kind)).max(-1)
        found += list(blocks[values < 1e6])
    return np.stack(found[:count])


KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_equals_gguf_s_own_values(kind, tmp_path, monkeypatch):
    """Catches rows of a quantised q or k permuted before they are unpacked, pieces of a matrix lost or exchanged."""
    kind = GGMLQuantizationType[kind]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    expected = []

    def encode(array):
        rows, columns = array.shape
        raw = random_blocks(kind, rows * columns // block).reshape(rows, columns // block * block_bytes)
        expected.append(dequantize(raw, kind))
        return raw, kind

    monkeypatch.setattr(gguf_weights, "_ROWS", 100)  # no divisor of anything
    out = load_file(convert(tmp_path, encode=encode) / "model.safetensors")
    matrices = [name for name, tensor in tiny_weights().items() if tensor.dim() == 2]
    for name, values in zip(matrices, expected, strict=True):
        ours = out[name].float().numpy()
        if "q_proj" in name or "k_proj" in name:
            ours = rotary_pairs(ours, HEADS if "q_proj" in name else KV_HEADS)
        assert np.array_equal(ours, torch.from_numpy(values.copy()).bfloat16().float().numpy()), name


def test_biases(tmp_path):
    """Catches biases dropped, and those of q and k left in GGUF's rotary order."""
    weights = tiny_weights(bias=True)
    out = convert(tmp_path, weights=weights)
    config = LlamaConfig.from_folder(out)
    assert config.attention_bias and config.mlp_bias
    loaded = checkpoint.load(out, config, "cpu", torch.bfloat16)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_several_files_of_weights(tmp_path, monkeypatch):
    """Catches a shard lost, one larger than said, an index that transformers does not read, and files that others may
    not read though they may read the folder."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 500_000)
    weights = tiny_weights(tied=False)
    out = convert(tmp_path, weights=weights)
    files = list(out.glob("*.safetensors"))
    assert {file.stat().st_mode & 0o777 for file in files} == {out.stat().st_mode & 0o666}
    assert len(files) > 3 and max(file.stat().st_size for file in files) < 510_000
    loaded = checkpoint.load(out, LlamaConfig.from_folder(out), "cpu", torch.bfloat16)
    theirs = transformers.LlamaForCausalLM.from_pretrained(out, dtype=torch.bfloat16).state_dict()
    assert theirs.keys() == loaded.keys() == weights.keys()
    assert all(torch.equal(theirs[name], loaded[name]) for name in weights)


ROPE = "llama.rope.scaling."
YARN = {f"{ROPE}type": "yarn", f"{ROPE}factor": 4.0, f"{ROPE}original_context_length": 128}


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({f"{ROPE}type": "none"}, None),
        ({f"{ROPE}type": "linear", f"{ROPE}factor": 2.5}, RopeScaling("linear", 2.5)),
        (YARN, RopeScaling("yarn", 4.0, original_max_position_embeddings=128, attention_factor=0.1 * math.log(4) + 1)),
        (
            YARN | {f"{ROPE}yarn_beta_fast": 16.0, f"{ROPE}yarn_beta_slow": 2.0, f"{ROPE}attn_factor": 1.0},
            RopeScaling(
                "yarn",
                4.0,
                original_max_position_embeddings=128,
                attention_factor=0.1 * math.log(4) + 1,
                beta_fast=16.0,
                beta_slow=2.0,
            ),
        ),
    ],
)
def test_rope_scaling(metadata, scaling, tmp_path):
    """Catches a scaling ignored, and the original context taken for the extended one."""
    assert LlamaConfig.from_folder(convert(tmp_path, metadata=METADATA | metadata)).rope_scaling == scaling


def llama3_divisors(factor: float, **changes) -> torch.Tensor:
    """By how much Llama 3 divides each frequency, from transformers' own function."""
    config = transformers.LlamaConfig(hidden_size=HIDDEN, num_attention_heads=HEADS, max_position_embeddings=1 << 17)
    config.rope_parameters = {"rope_type": "llama3", "rope_theta": 12345.0, "factor": factor, "low_freq_factor": 1.0}
    config.rope_parameters |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192} | changes
    plain = 1.0 / 12345.0 ** (torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    return plain / ROPE_INIT_FUNCTIONS["llama3"](config, None)[0]


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered(factor, tmp_path):
    """llama.cpp keeps only divisors. Catches them ignored, and multiplied instead."""
    weights = tiny_weights() | {"rope_freqs.weight": llama3_divisors(factor)}
    config = LlamaConfig.from_folder(convert(tmp_path, weights=weights))
    assert config.rope_scaling == RopeScaling("llama3", factor, 1.0, 4.0, 8192)


def drop(key):
    return {k: v for k, v in METADATA.items() if k != key}


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({}, "vocab_size", 7),
        ({"llama.vocab_size": 9}, "vocab_size", 9),
        ({}, "num_key_value_heads", KV_HEADS),
        ({"llama.attention.head_count_kv": None}, "num_key_value_heads", HEADS),
        ({"llama.attention.key_length": 32}, "head_dim", 32),
        ({"llama.rope.freq_base": None}, "rope_theta", 10000.0),
    ],
)
def test_what_a_file_says_and_leaves_out(changes, key, value):
    """Catches a default in the place of what the file says, and another default than llama.cpp's. None: not there."""
    fields = METADATA | {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a"] * 7} | changes
    assert gguf._config({name: value for name, value in fields.items() if value is not None}, {})[key] == value


@pytest.mark.parametrize(("tensor", "key"), [("attn_q", "attention_bias"), ("ffn_gate", "mlp_bias")])
def test_biases_of_one_kind(tensor, key):
    """Catches those of the attention taken for a sign of the MLP's, or the reverse."""
    fields = METADATA | {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a"]}
    values = gguf._config(fields, {f"blk.0.{tensor}.bias": None})
    assert {name for name in ("attention_bias", "mlp_bias") if values[name]} == {key}


def test_token_ids_and_window(tmp_path):
    """Llama 3 ends turns by ``eot``. Catches it lost, an absent id taken for transformers' default, a lost window."""
    metadata = drop("tokenizer.ggml.bos_token_id") | {"tokenizer.ggml.eot_token_id": 0}
    config = LlamaConfig.from_folder(convert(tmp_path, metadata=metadata | {"llama.attention.sliding_window": 99}))
    assert (config.bos_token_id, config.eos_token_ids, config.sliding_window) == (None, (2, 0), 99)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "qwen2"}, "architecture must be llama, got 'qwen2'"),
        ({"metadata": METADATA | {"tokenizer.ggml.pre": "no-such"}}, "no-such"),
        ({"metadata": METADATA | YARN | {f"{ROPE}type": "longrope"}}, f"{ROPE}type 'longrope'"),
        ({"metadata": METADATA | YARN | {f"{ROPE}attn_factor": 2.0}}, f"{ROPE}attn_factor = 2.0"),
        ({"metadata": METADATA | YARN | {f"{ROPE}yarn_attn_factor": 2.0}}, f"{ROPE}yarn_attn_factor = 2.0"),
        ({"metadata": METADATA | YARN | {f"{ROPE}yarn_ext_factor": 0.5}}, f"{ROPE}yarn_ext_factor = 0.5"),
        ({"metadata": METADATA | YARN | {f"{ROPE}yarn_log_multiplier": 0.5}}, f"{ROPE}yarn_log_multiplier = 0.5"),
        ({"metadata": METADATA | {f"{ROPE}type": "yarn"}}, f"'{ROPE}factor' is missing"),
        ({"metadata": METADATA | {"llama.rope.dimension_count": 32}}, "llama.rope.dimension_count = 32"),
        ({"metadata": METADATA | {"llama.attention.key_length": 32}}, "dimension_count = 16"),
        ({"metadata": METADATA | {"llama.attention.value_length": 32}}, "value_length = 32"),
        ({"metadata": METADATA | {"split.count": 2}}, "split.count"),
        ({"metadata": METADATA | {"llama.context_length": 2**31}}, "max_position_embeddings"),
        ({"metadata": METADATA | {"llama.block_count": 10**9}}, "num_hidden_layers must be at most"),
        ({"metadata": METADATA | {"llama.rope.freq_base": "high"}}, r"tiny\.gguf"),
        ({"metadata": METADATA | {"llama.expert_count": 8}}, "llama.expert_count"),
        ({"metadata": METADATA | {"llama.block_count": 3}}, "9 tensors are missing .* blk.2"),
        ({"metadata": METADATA | {"llama.block_count": 1}}, "blk.1.* has no place"),
        ({"metadata": METADATA | {"llama.attention.head_count": 0}}, "num_attention_heads"),
        ({"metadata": drop("llama.context_length")}, "'llama.context_length' is missing"),
        ({"weights": tiny_weights() | {"rope_freqs.weight": torch.arange(1.0, 9.0)}}, "rope_freqs.weight: only"),
        ({"weights": tiny_weights() | {"rope_freqs.weight": llama3_divisors(8, low_freq_factor=2.0)}}, "rope_freqs"),
        ({"weights": tiny_weights() | {"rope_freqs.weight": torch.ones(3)}}, "rope_freqs.weight: only"),
        (
            {"weights": tiny_weights() | {"rope_freqs.weight": llama3_divisors(8)}, "metadata": METADATA | YARN},
            "rope_freqs.weight beside",
        ),
        ({"weights": tiny_weights() | {"model.norm.weight": torch.full((HIDDEN,), math.nan)}}, "output_norm.*NaN"),
        ({"encode": lambda a: (a.astype(np.int8), None)}, "attn_q.*I8|token_embd.*I8"),
        ({"weights": tiny_weights() | {"model.norm.weight": torch.ones(32)}}, "output_norm.weight .*no place"),
        ({"weights": tiny_weights() | {"model.layers.0.attn_q_norm.weight": torch.ones(8)}}, "attn_q_norm"),
    ],
)
def test_refuses_by_name(options, message, tmp_path):
    """Each would otherwise convert into a model that runs and is wrong."""
    with pytest.raises(LlamaError, match=message) as caught:
        convert(tmp_path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", ["empty", "text", "truncated", "no metadata", "absent"])
def test_refuses_broken_files(spoil, tmp_path):
    """The reader raises a dozen kinds of exception on broken bytes; a user sees one line."""
    path = tmp_path / "tiny.gguf"
    if spoil != "absent":
        write_tiny(path, tiny_weights())
        data = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "text": b"hello" * 9, "truncated": data[: len(data) // 2]}.get(spoil, data[:24])
        )
    with pytest.raises(LlamaError, match=r"tiny\.gguf"):
        gguf.convert(path, tmp_path / "out")


MANY = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 0, 2**40)  # an array of uint8


@pytest.mark.parametrize(
    ("data", "message"),
    [(MANY, "more than 4194304 values"), (MANY[:20], "it ends at byte 20, before byte 24")],
    ids=["many", "cut"],
)
def test_what_a_file_promises(data, message, tmp_path):
    """Catches a reader that follows a count as far as memory goes, and one that takes half a number for one."""
    (tmp_path / "many.gguf").write_bytes(data)
    with pytest.raises(LlamaError, match=message):
        gguf.convert(tmp_path / "many.gguf", tmp_path / "out")
