"""GGUF to a folder in Hugging Face's layout, dequantised to bf16.

Converts what llama.cpp calls the llama architecture, Mistral among it, from any type that the ``gguf`` package
dequantises; anything else is refused by name.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import gguf_tokenizer
from pytriton_llama.llama.config import LlamaConfig

if TYPE_CHECKING:
    import torch

_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ROPE_FREQS = "rope_freqs.weight"
# Those of every published Llama 3; a file has only the divisors that follow from them.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_SHARD_BYTES = 1 << 30
_ROWS = 4096  # dequantised at a time: a whole embedding in float32 takes gigabytes


def convert(gguf_path: str | Path, folder: str | Path) -> None:
    """Write config, generation config, bf16 weights, tokenizer and chat template into ``folder``.

    Host memory stays near that of one file of weights, about 1 GB. Raises :class:`LlamaError` for a file that is no
    GGUF and for what is not supported, by name.
    """
    from pytriton_llama.llama import gguf_reader

    folder = Path(folder)
    try:
        fields, tensors = gguf_reader.read(gguf_path)
        config = _config(fields, tensors)
        parsed = _parse(config, fields)
        tokenizer_name, tokenizer_data = gguf_tokenizer.tokenizer_file(fields)
        tokenizer_config = gguf_tokenizer.tokenizer_config(fields)
        folder.mkdir(parents=True, exist_ok=True)
        _write_weights(tensors, parsed, folder)
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
    if _ROPE_FREQS in tensors:
        if kind != "none":
            raise LlamaError(f"{_ROPE_FREQS} beside {prefix}type {kind!r} is not supported")
        # Low frequencies are divided by all of the factor, and no other by more.
        return {"rope_type": "llama3", "factor": _decimal(float(tensors[_ROPE_FREQS].data.max())), **_LLAMA3}
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


def _write_weights(tensors: dict[str, Any], config: LlamaConfig, folder: Path) -> None:
    from safetensors.torch import save_file
    from tqdm.auto import tqdm

    from pytriton_llama.llama.checkpoint import INDEX, SINGLE, expected_shapes

    if _ROPE_FREQS in tensors:
        _check_rope_freqs(tensors[_ROPE_FREQS], config)
    shapes = expected_shapes(config)
    names = {_gguf_name(name): name for name in shapes}
    for name, tensor in tensors.items():
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if name != _ROPE_FREQS and shape != shapes.get(names.get(name, "")):
            raise LlamaError(f"GGUF tensor {name} of shape {shape} has no place in the model")
    missing = names.keys() - tensors.keys()
    if missing:
        raise LlamaError(f"{len(missing)} tensors are missing from the GGUF file, among them {min(missing)}")
    shards = _shards(shapes)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = folder / (SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors")
        weights = {}
        # Minutes for a large model; no bar where nobody looks on.
        for name in tqdm(shard, desc=f"converting {number} of {len(shards)}", disable=None):
            weights[name] = _weight(tensors[_gguf_name(name)], name, shapes[name], config.head_dim)
        save_file(weights, file, metadata={"format": "pt"})
        file.chmod(folder.stat().st_mode & 0o666)  # save_file lets only its user read; a cache may be shared
        places |= dict.fromkeys(shard, file.name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": 2 * sum(map(math.prod, shapes.values()))}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _check_rope_freqs(tensor: Any, config: LlamaConfig) -> None:
    """Refuses divisors of frequencies that are not those of ``_LLAMA3``."""
    import numpy as np

    from pytriton_llama.llama.rope import inverse_frequencies

    divisors = inverse_frequencies(replace(config, rope_scaling=None)) / inverse_frequencies(config)
    if tensor.data.shape != divisors.shape or not np.allclose(tensor.data, divisors.numpy(), rtol=1e-4):
        raise LlamaError(f"GGUF tensor {_ROPE_FREQS}: only Llama 3's own scaling of frequencies is supported")


def _shards(shapes: dict[str, tuple[int, ...]]) -> list[list[str]]:
    """Names in their order, cut where a file of bf16 would pass _SHARD_BYTES."""
    shards: list[list[str]] = [[]]
    room = _SHARD_BYTES
    for name, shape in shapes.items():
        room -= 2 * math.prod(shape)
        if room < 0 and shards[-1]:
            shards.append([])
            room = _SHARD_BYTES - 2 * math.prod(shape)
        shards[-1].append(name)
    return shards


def _weight(tensor: Any, name: str, shape: tuple[int, ...], head_dim: int) -> torch.Tensor:
    """A tensor's values in bf16, its rows in Hugging Face's order."""
    import numpy as np
    import torch
    from gguf import dequantize

    from pytriton_llama.llama.checkpoint import check_finite

    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    weight = torch.empty((len(rows), shape[-1]), dtype=torch.bfloat16)
    try:
        for start in range(0, len(rows), _ROWS):
            with np.errstate(all="ignore"):  # what is not finite is refused below
                values = dequantize(rows[start : start + _ROWS], tensor.tensor_type)
            weight[start : start + _ROWS] = torch.from_numpy(np.array(values, dtype=np.float32))
    except (NotImplementedError, ValueError) as error:
        raise LlamaError(f"GGUF tensor {tensor.name}: {tensor.tensor_type.name}: {error}") from error
    check_finite(weight, tensor.name)
    weight = weight.reshape(shape)
    return _half_split(weight, head_dim) if ".q_proj." in name or ".k_proj." in name else weight


def _half_split(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows from GGUF's rotary order (pairs side by side) to Hugging Face's (pairs half a head apart)."""
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_INNER[part]}.{kind}"
