"""``config.json`` of a Llama or Mistral checkpoint, under Hugging Face's names.

What the model cannot compute is refused by name here, before a byte of weights is read: a model that runs but
computes something else than its authors meant is worse than none.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.scheme import KEY, Scheme
from pytriton_llama.llama.values import flag, positive, read_json, shown, size, token_ids

# More than any published Llama has. The tables of a model's tensors and of its angles grow with these two, whatever the
# weights are: beyond, a file of a few bytes would take all of the memory.
_MAX_LAYERS = 1024
_MAX_CONTEXT = 1 << 22

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}

# Keys of Llama's relatives that change the computation, with the values that leave it as Llama's.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "compression_config": (None,),
    "layer_types": (None,),
    "partial_rotary_factor": (None, 1),
    "rope_interleaved": (None, False),
    "no_rope_layers": (None,),
    "num_local_experts": (None,),
    "num_experts": (None,),
    "n_routed_experts": (None,),
    "use_qk_norm": (None, False),
    "qk_norm": (None, False),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "logits_scaling": (None, 1),
    "logit_scale": (None, 1),
    "attention_multiplier": (None,),
    "embedding_multiplier": (None, 1),
    "residual_multiplier": (None, 1),
}


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those of pre-training; see ``rope.py``.

    ``rope_type`` is "linear", "dynamic", "llama3" or "yarn". ``original_max_position_embeddings`` is the context of
    pre-training, in tokens. The ramp between frequencies kept and divided is llama3's ``low_freq_factor`` and
    ``high_freq_factor``, yarn's ``beta_slow`` and ``beta_fast``: turns within that context. yarn multiplies cos and
    sin by ``attention_factor``, and with ``truncate`` its ramp begins and ends at whole pairs.
    """

    rope_type: str
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama: sizes in elements, lengths in tokens, ids into the vocabulary.

    ``max_position_embeddings`` is the longest text; that of dynamic scaling is its factor times the file's value.
    ``sliding_window``: token i sees token j where 0 ≤ i − j < sliding_window; None: all before it.
    ``quantization``: None where all weights are floating point.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    sliding_window: int | None
    quantization: Scheme | None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LlamaConfig":
        """From the contents of a ``config.json``. Raises :class:`LlamaError` naming the key at fault."""
        _refuse_relatives(values)
        mistral = values["model_type"] == "mistral"
        vocab_size = size(values, "vocab_size")
        hidden_size, intermediate_size = size(values, "hidden_size"), size(values, "intermediate_size")
        heads = size(values, "num_attention_heads")
        # Where transformers' defaults differ, Mistral's are those of its first model.
        kv_heads = size(values, "num_key_value_heads", 8 if mistral else heads)
        window = values.get("sliding_window", 4096 if mistral else None)
        if heads % kv_heads:
            raise LlamaError(
                f"config: num_attention_heads ({heads}) is no multiple of num_key_value_heads ({kv_heads})"
            )
        if values.get("head_dim") is None and hidden_size % heads:
            raise LlamaError(
                f"config: without head_dim, hidden_size ({hidden_size}) is no multiple of num_attention_heads ({heads})"
            )
        head_dim = size(values, "head_dim", hidden_size // heads)
        if head_dim % 2 or not 16 <= head_dim <= 256:
            raise LlamaError(f"config: head_dim must be even and from 16 to 256, got {head_dim}")
        default_length = 4096 * 32 if mistral else 2048
        max_length = size(values, "max_position_embeddings", default_length, most=_MAX_CONTEXT)
        rope_theta, scaling = _rope(values, max_length)
        if scaling and scaling.rope_type == "dynamic":
            if scaling.factor * max_length > _MAX_CONTEXT:
                raise LlamaError(f"config: factor times max_position_embeddings must be at most {_MAX_CONTEXT}")
            max_length = int(scaling.factor * max_length)
        bos = values.get("bos_token_id", 1)
        if isinstance(bos, list):
            raise LlamaError(f"config: bos_token_id must be one token id, got {shown(bos)}")
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=size(values, "num_hidden_layers", most=_MAX_LAYERS),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=max_length,
            rms_norm_eps=positive(values, "rms_norm_eps", 1e-6),
            rope_theta=rope_theta,
            rope_scaling=scaling,
            attention_bias=flag(values, "attention_bias"),
            mlp_bias=flag(values, "mlp_bias"),
            tie_word_embeddings=flag(values, "tie_word_embeddings"),
            bos_token_id=next(iter(token_ids(bos, "bos_token_id", vocab_size)), None),
            eos_token_ids=token_ids(values.get("eos_token_id", 2), "eos_token_id", vocab_size),
            sliding_window=None if window is None else size({"sliding_window": window}, "sliding_window"),
            quantization=Scheme.from_dict(values.get(KEY), (hidden_size, heads * head_dim, intermediate_size)),
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> "LlamaConfig":
        """From a checkpoint's folder; the end-of-text ids of ``generation_config.json`` go first."""
        values = read_json(Path(folder) / "config.json")
        generation = Path(folder) / "generation_config.json"
        if generation.exists():
            eos = read_json(generation).get("eos_token_id")
            if eos is not None:
                values["eos_token_id"] = eos
        return cls.from_dict(values)


def _refuse_relatives(values: dict[str, Any]) -> None:
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in _ARCHITECTURES:
        raise LlamaError(f"config: model_type must be 'llama' or 'mistral', got {shown(kind)}")
    if values.get("architectures") not in (None, [], [_ARCHITECTURES[kind]]):
        needed, found = [_ARCHITECTURES[kind]], shown(values["architectures"])
        raise LlamaError(f"config: architectures must be {needed!r}, got {found}")
    if kind == "llama" and values.get("sliding_window") is not None:
        raise LlamaError(f"config: sliding_window = {shown(values['sliding_window'])} is not supported in a 'llama'")
    for key, neutral in _NEUTRAL.items():
        if key in values and values[key] not in neutral:
            raise LlamaError(f"config: {key} = {shown(values[key])} is not supported (only {neutral[-1]!r})")


def _rope(values: dict[str, Any], max_length: int) -> tuple[float, RopeScaling | None]:
    """rope_theta, and the scaling."""
    # As in transformers: `rope_scaling`, where there is one, stands for all of `rope_parameters`.
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(key) or {}
    if not isinstance(rope, dict):
        raise LlamaError(f"config: {key} must be an object or null, got {shown(rope)}")
    theta = positive({**values, **rope}, "rope_theta", 10000.0)
    if theta <= 1:
        raise LlamaError(f"config: rope_theta must be above 1, got {theta}")
    return theta, _rope_scaling(rope, key, max_length, values)


def _rope_scaling(rope: dict[str, Any], key: str, max_length: int, values: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if (share := rope.get("partial_rotary_factor")) not in (None, 1):
        raise LlamaError(f"config: {key}.partial_rotary_factor = {shown(share)} is not supported")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", positive(rope, "factor", where=key))
    if kind == "dynamic":
        factor = positive(rope, "factor", where=key)
        if factor < 1:
            raise LlamaError(f"config: {key}.factor must be at least 1, got {factor}")
        return RopeScaling("dynamic", factor, original_max_position_embeddings=max_length)
    # As in transformers: beside the scaling, it goes first.
    name = "original_max_position_embeddings"
    original = size(rope, name, max_length, key) if values.get(name) is None else size(values, name)
    if kind == "llama3":
        low, high = (positive(rope, f"{side}_freq_factor", where=key) for side in ("low", "high"))
        if low >= high:
            raise LlamaError(f"config: {key}: low_freq_factor ({low}) must be below high_freq_factor ({high})")
        return RopeScaling("llama3", positive(rope, "factor", where=key), low, high, original)
    if kind == "yarn":
        return _yarn(rope, key, max_length / original, original)
    raise LlamaError(f"config: {key}.rope_type must be default, linear, dynamic, llama3 or yarn, got {shown(kind)}")


def _yarn(rope: dict[str, Any], key: str, ratio: float, original: int) -> RopeScaling:
    given = {name: value for name, value in rope.items() if value is not None}
    factor = positive(given, "factor", ratio, key)
    mscale, mscale_all_dim = (positive(given, name, 1.0, key) for name in ("mscale", "mscale_all_dim"))

    def temperature(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = temperature(1.0)
    if given.get("mscale") and given.get("mscale_all_dim"):
        attention = temperature(mscale) / temperature(mscale_all_dim)
    fast, slow = positive(given, "beta_fast", 32.0, key), positive(given, "beta_slow", 1.0, key)
    if fast < slow:
        raise LlamaError(f"config: {key}: beta_slow ({slow}) must not be above beta_fast ({fast})")
    return RopeScaling(
        "yarn",
        factor,
        original_max_position_embeddings=original,
        attention_factor=positive(given, "attention_factor", attention, key),
        beta_fast=fast,
        beta_slow=slow,
        truncate=flag(given, "truncate", True, key),
    )
