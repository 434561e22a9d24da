"""GGUF to Hugging Face's layout: equal to transformers' own GGUF loader, and to files made here; others refused."""

import json

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import checkpoint, fetch, gguf, tokenizer
from pytriton_llama.llama.config import LlamaConfig

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INTER, VOCAB = 4, 2, 16, 64, 96, 260
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


def tiny_weights(tied=True) -> dict[str, torch.Tensor]:
    """Random weights under Hugging Face's names, of values that bf16 holds."""
    config = LlamaConfig.from_dict(
        {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INTER}
        | {"num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
        | {"tie_word_embeddings": tied}
    )
    generator = torch.Generator().manual_seed(3)
    shapes = checkpoint.expected_shapes(config)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def rotary_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Row 2i and 2i + 1 of a head are what Hugging Face has in rows i and i + half a head."""
    half = weight.shape[0] // heads // 2
    rows = [h * 2 * half + side * half + i for h in range(heads) for i in range(half) for side in (0, 1)]
    return weight[rows]


def write_tiny(path, weights, metadata=METADATA, architecture="llama", quantized=None):
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
        stem = name.removesuffix(".weight")
        array = tensor.float().numpy()
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            stem = f"blk.{layer}.{inner.get(part, part)}"
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                array = rotary_pairs(array, HEADS if part == "self_attn.q_proj" else KV_HEADS)
        else:
            stem = outer.get(stem, stem)
        if quantized is not None and array.ndim == 2:
            writer.add_tensor(f"{stem}.weight", quantize(array, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(f"{stem}.weight", array)
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


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_quantised_kinds(kind, tmp_path):
    """Catches rows of a quantised q or k permuted before they are unpacked."""
    weights = tiny_weights()
    ours = load_file(convert(tmp_path, weights=weights, quantized=GGMLQuantizationType[kind]) / "model.safetensors")
    bound = {"F16": 0.0, "BF16": 0.0, "Q8_0": 0.03, "Q5_0": 0.2}.get(kind, 0.4)  # largest weight ~4, 2^bits steps
    for name, tensor in ours.items():
        assert (tensor - weights[name]).abs().max() <= bound, name


def drop(key):
    return {k: v for k, v in METADATA.items() if k != key}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "qwen2"}, "architecture must be llama, got 'qwen2'"),
        ({"metadata": METADATA | {"tokenizer.ggml.model": "llama"}}, "tokenizer llama/smollm is not supported"),
        ({"metadata": METADATA | {"tokenizer.ggml.pre": "llama-bpe"}}, "tokenizer gpt2/llama-bpe is not supported"),
        ({"metadata": METADATA | {"llama.rope.scaling.type": "yarn"}}, "llama.rope.scaling.type 'yarn'"),
        ({"metadata": METADATA | {"llama.rope.dimension_count": 32}}, "blk.0.attn_q.* has no place"),
        ({"metadata": METADATA | {"llama.rope.freq_base": "high"}}, r"tiny\.gguf"),
        ({"metadata": METADATA | {"llama.expert_count": 8}}, "llama.expert_count"),
        ({"metadata": METADATA | {"llama.block_count": 3}}, "9 tensors are missing .* model.layers.2"),
        ({"metadata": METADATA | {"llama.block_count": 1}}, "blk.1.* has no place"),
        ({"metadata": METADATA | {"llama.attention.head_count": 0}}, "num_attention_heads"),
        ({"metadata": drop("llama.context_length")}, "'llama.context_length' is missing"),
        ({"metadata": drop("tokenizer.chat_template")}, "'tokenizer.chat_template' is missing"),
        ({"weights": tiny_weights() | {"rope_freqs.weight": torch.ones(8)}}, "rope_freqs.weight .*no place"),
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
