"""GGUF to a folder in Hugging Face's layout.

Converts what llama.cpp calls the llama architecture, Mistral among it, from any type that the ``gguf`` package
dequantises; anything else is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import gguf_reader, gguf_tokenizer, gguf_weights, shards
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.gguf_weights import ROPE_FREQS
from pytriton_llama.llama.scheme import KEY

# Those of every published Llama 3; a file has only the divisors that follow from them.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def convert(
    gguf_path: str | Path,
    folder: str | Path,
    keep_quantized: bool = False,
    progress: Callable[[str], object] = lambda line: None,
) -> None:
    """Write config, generation config, weights, tokenizer and chat template into ``folder``.

    Weights are bf16; with ``keep_quantized``, those that can be are what the file has, bit for bit, and ``progress``
    gets a line about the others. Host memory stays near that of one file of weights, about 1 GB. Raises
    :class:`LlamaError` for a file that is no GGUF and for what is not supported, by name.
    """
    folder = Path(folder)
    try:
        fields, tensors = gguf_reader.read(gguf_path)
        config = _config(fields, tensors)
        if keep_quantized:
            config[KEY] = gguf_weights.scheme(tensors).to_dict()
            if lost := gguf_weights.expanded(tensors):
                progress(f"{', '.join(lost)} cannot be kept: stored in bf16")
        parsed = _parse(config, fields)
        tokenizer_name, tokenizer_data = gguf_tokenizer.tokenizer_file(fields)
        tokenizer_config = gguf_tokenizer.tokenizer_config(fields)
        folder.mkdir(parents=True, exist_ok=True)
        shards.write(gguf_weights.weights(tensors, parsed, keep_quantized), folder)
    except KeyError as error:
        raise LlamaError(f"{gguf_path}: metadata key {error} is missing") from error
    except OSError:
        raise
    except Exception as error:  # metadata can be anything
        raise LlamaError(f"{gguf_path}: {error}") from error
    (folder / tokenizer_name).write_bytes(tokenizer_data)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    for name, values in {
        "tokenizer_config.json": tokenizer_config,
        "generation_config.json": ids,
        "config.json": config,
    }.items():
        (folder / name).write_text(json.dumps(values, indent=2), encoding="utf-8")


def _config(fields: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """What ``config.json`` shall say."""
    if fields["general.architecture"] != "llama":
        raise LlamaError(f"architecture must be llama, got {fields['general.architecture']!r}")
    if fields.get("llama.expert_count", 0):
        raise LlamaError("llama.expert_count: mixtures of experts are not supported")
    if fields.get("split.count", 1) > 1:
        raise LlamaError("split.count: one of several files; merge them first")
    heads, window = fields["llama.attention.head_count"], fields.get("llama.attention.sliding_window")
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    eos = [fields[key] for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id") if key in fields]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields.get("llama.vocab_size", len(fields["tokenizer.ggml.tokens"])),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": fields.get("llama.attention.key_length"),
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": _decimal(fields["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _decimal(fields.get("llama.rope.freq_base", 10000.0)),
        "rope_scaling": _rope_scaling(fields, tensors),
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": eos[0] if len(set(eos)) == 1 else list(dict.fromkeys(eos)) or None,
        "torch_dtype": "bfloat16",
    } | (mistral if window else {})


def _decimal(value: float) -> float:
    """The short decimal behind a 32-bit float: 1e-5, not 9.999999747378752e-06."""
    return float(f"{value:.6g}")


def _rope_scaling(fields: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any] | None:
    prefix = "llama.rope.scaling."
    kind = fields.get(f"{prefix}type", "none")
    if ROPE_FREQS in tensors:
        if kind != "none":
            raise LlamaError(f"{ROPE_FREQS} beside {prefix}type {kind!r} is not supported")
        # Low frequencies are divided by all of the factor, and no other by more.
        return {"rope_type": "llama3", "factor": _decimal(float(tensors[ROPE_FREQS].data.max())), **_LLAMA3}
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": _decimal(fields[f"{prefix}factor"])}
    if kind == "linear":
        return scaling
    if kind != "yarn":
        raise LlamaError(f"{prefix}type {kind!r} is not supported (only none, linear and yarn)")
    for name, neutral in {
        "attn_factor": 1,
        "yarn_attn_factor": 1,
        "yarn_ext_factor": 1,
        "yarn_log_multiplier": 0,
    }.items():
        if fields.get(prefix + name, neutral) != neutral:
            raise LlamaError(f"{prefix}{name} = {fields[prefix + name]} is not supported (only {neutral})")
    for ours, theirs in {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}.items():
        if prefix + theirs in fields:
            scaling[ours] = _decimal(fields[prefix + theirs])
    return scaling | {"original_max_position_embeddings": fields[f"{prefix}original_context_length"]}


def _parse(values: dict[str, Any], fields: dict[str, Any]) -> LlamaConfig:
    config = LlamaConfig.from_dict(values)
    for key in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if fields.get(key, config.head_dim) != config.head_dim:
            raise LlamaError(f"{key} = {fields[key]} is not supported: heads have {config.head_dim} elements")
    return config
