"""GGUF to a folder in Hugging Face's layout, dequantised to bf16.

Converts Llama models whose tokenizer is SmolLM2's; anything else is refused by name.
"""

import json
from pathlib import Path
from typing import Any

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.config import LlamaConfig

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
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
_CONTROL = 3  # token type


def convert(gguf_path: str | Path, folder: str | Path) -> None:
    """Write config, generation config, bf16 weights, tokenizer and chat template into ``folder``.

    Raises :class:`LlamaError` for a file that is no GGUF and for what is not supported, by name.
    """
    from gguf import GGUFReader

    folder = Path(folder)
    try:
        reader = GGUFReader(gguf_path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # the reader indexes into whatever bytes it is given
        raise LlamaError(f"{gguf_path}: not a readable GGUF file: {error}") from error
    try:
        config = _config(fields, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
        tokenizer = _tokenizer(fields)
        tokenizer_config = _tokenizer_config(fields)
    except KeyError as error:
        raise LlamaError(f"{gguf_path}: metadata key {error} is missing") from error
    except Exception as error:  # metadata can be anything
        raise LlamaError(f"{gguf_path}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(reader.tensors, LlamaConfig.from_dict(config), folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    for name, values in {
        "tokenizer_config.json": tokenizer_config,
        "generation_config.json": ids,
        "config.json": config,
    }.items():
        (folder / name).write_text(json.dumps(values, indent=2), encoding="utf-8")


def _config(fields: dict[str, Any], tied: bool) -> dict[str, Any]:
    if fields["general.architecture"] != "llama":
        raise LlamaError(f"architecture must be llama, got {fields['general.architecture']!r}")
    heads = fields["llama.attention.head_count"]
    if fields.get("llama.rope.scaling.type", "none") != "none":
        raise LlamaError(f"llama.rope.scaling.type {fields['llama.rope.scaling.type']!r} is not supported")
    if fields.get("llama.expert_count", 0):
        raise LlamaError("llama.expert_count: mixtures of experts are not supported")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields.get("llama.vocab_size", len(fields["tokenizer.ggml.tokens"])),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": fields.get("llama.rope.dimension_count"),  # Llama rotates whole heads
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": _decimal(fields["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _decimal(fields.get("llama.rope.freq_base", 10000.0)),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "bfloat16",
    }


def _decimal(value: float) -> float:
    """The short decimal behind a 32-bit float: 1e-5, not 9.999999747378752e-06."""
    return float(f"{value:.6g}")


def _write_weights(tensors: list[Any], config: LlamaConfig, path: Path) -> None:
    import numpy as np
    import torch
    from gguf import dequantize
    from safetensors.torch import save_file

    from pytriton_llama.llama.checkpoint import expected_shapes

    shapes = expected_shapes(config)
    weights = {}
    for tensor in tensors:
        name = _hf_name(tensor.name)
        shape = shapes.get(name)
        if shape is None or tuple(int(size) for size in reversed(tensor.shape)) != shape:
            raise LlamaError(f"GGUF tensor {tensor.name} of shape {tensor.shape.tolist()} has no place in the model")
        try:
            weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False).reshape(shape)
        except (NotImplementedError, ValueError) as error:
            raise LlamaError(f"GGUF tensor {tensor.name}: {tensor.tensor_type.name}: {error}") from error
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = _half_split(weight, config.head_dim)
        weights[name] = torch.from_numpy(np.array(weight)).to(torch.bfloat16)
    missing = shapes.keys() - weights.keys()
    if missing:
        raise LlamaError(f"{len(missing)} tensors are missing from the GGUF file, among them {min(missing)}")
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # save_file lets only its user read; a cache may be shared


def _half_split(weight: Any, head_dim: int) -> Any:
    """Rows from GGUF's rotary order (pairs side by side) to Hugging Face's (pairs half a head apart)."""
    rows, columns = weight.shape
    return weight.reshape(rows // head_dim, head_dim // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _hf_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    block, _, rest = name.removeprefix("blk.").partition(".")
    part, _, kind = rest.partition(".")
    return f"model.layers.{block}.{_INNER.get(part, part)}.{kind}"


def _tokenizer(fields: dict[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"])
    if kind != ("gpt2", "smollm"):
        raise LlamaError(f"tokenizer {kind[0]}/{kind[1]} is not supported (only gpt2/smollm)")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return tokenizer


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "chat_template": fields["tokenizer.chat_template"],
    }
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        if f"tokenizer.ggml.{name}_token_id" in fields:
            values[f"{key}_token"] = tokens[fields[f"tokenizer.ggml.{name}_token_id"]]
    return values
