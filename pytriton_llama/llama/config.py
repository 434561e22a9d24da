"""``config.json`` of a Llama checkpoint, under Hugging Face's names.

What the model cannot compute is refused by name here, before a byte of weights is read: a model that runs but
computes something else than its authors meant is worse than none.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytriton_llama.errors import LlamaError

_REQUIRED = object()

# Keys of Llama's relatives that change the computation, with the values that leave it as Llama's.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "quantization_config": (None,),
    "compression_config": (None,),
    "sliding_window": (None,),
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
    """How rotary frequencies are stretched for contexts longer than those of pre-training.

    ``rope_type`` is ``"linear"`` (every frequency divided by ``factor``) or ``"llama3"`` (low frequencies
    divided, high ones kept, a ramp between). The last three fields are llama3's: the ramp lies between
    ``low_freq_factor`` and ``high_freq_factor`` turns per ``original_max_position_embeddings`` tokens.
    """

    rope_type: str
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama: sizes in elements, lengths in tokens, ids into the vocabulary."""

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
    torch_dtype: str | None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LlamaConfig":
        """From the contents of a ``config.json``. Raises :class:`LlamaError` naming the key at fault."""
        _refuse_relatives(values)
        hidden_size = _size(values, "hidden_size")
        heads = _size(values, "num_attention_heads")
        kv_heads = _size(values, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise LlamaError(
                f"config: num_attention_heads ({heads}) is no multiple of num_key_value_heads ({kv_heads})"
            )
        if values.get("head_dim") is None and hidden_size % heads:
            raise LlamaError(
                f"config: without head_dim, hidden_size ({hidden_size}) is no multiple of num_attention_heads ({heads})"
            )
        head_dim = _size(values, "head_dim", hidden_size // heads)
        if head_dim % 2 or not 16 <= head_dim <= 256:
            raise LlamaError(f"config: head_dim must be even and from 16 to 256, got {head_dim}")
        max_length = _size(values, "max_position_embeddings", 2048)
        # As in transformers: `rope_scaling`, where there is one, stands for all of `rope_parameters`.
        key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
        rope = values.get(key) or {}
        if not isinstance(rope, dict):
            raise LlamaError(f"config: {key} must be an object or null, got {rope!r}")
        bos = values.get("bos_token_id", 1)
        if isinstance(bos, list):
            raise LlamaError(f"config: bos_token_id must be one token id, got {bos!r}")
        dtype = values.get("dtype") or values.get("torch_dtype")
        return cls(
            vocab_size=_size(values, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_size(values, "intermediate_size"),
            num_hidden_layers=_size(values, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=max_length,
            rms_norm_eps=_positive(values, "rms_norm_eps", 1e-6),
            rope_theta=_positive({**values, **rope}, "rope_theta", 10000.0),
            rope_scaling=_rope_scaling(rope, key, max_length),
            attention_bias=_flag(values, "attention_bias"),
            mlp_bias=_flag(values, "mlp_bias"),
            tie_word_embeddings=_flag(values, "tie_word_embeddings"),
            bos_token_id=next(iter(_token_ids(bos, "bos_token_id")), None),
            eos_token_ids=_token_ids(values.get("eos_token_id", 2), "eos_token_id"),
            torch_dtype=None if dtype is None else str(dtype),
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


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises :class:`LlamaError` where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LlamaError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LlamaError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise LlamaError(f"{path}: a JSON object is needed, found a {type(values).__name__}")
    return values


def _refuse_relatives(values: dict[str, Any]) -> None:
    if values.get("model_type") != "llama":
        raise LlamaError(f"config: model_type must be 'llama', got {values.get('model_type')!r}")
    if values.get("architectures") not in (None, [], ["LlamaForCausalLM"]):
        raise LlamaError(f"config: architectures must be ['LlamaForCausalLM'], got {values['architectures']!r}")
    for key, neutral in _NEUTRAL.items():
        if key in values and values[key] not in neutral:
            raise LlamaError(f"config: {key} = {values[key]!r} is not supported (only {neutral[-1]!r})")


def _rope_scaling(rope: dict[str, Any], where: str, max_length: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise LlamaError(f"config: {where}.partial_rotary_factor = {rope['partial_rotary_factor']!r} is not supported")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", _positive(rope, "factor", where=where))
    if kind != "llama3":
        raise LlamaError(f"config: {where}.rope_type must be default, linear or llama3, got {kind!r}")
    low, high = (_positive(rope, f"{side}_freq_factor", where=where) for side in ("low", "high"))
    if low >= high:
        raise LlamaError(f"config: {where}: low_freq_factor ({low}) must be below high_freq_factor ({high})")
    original = _size(rope, "original_max_position_embeddings", max_length, where)
    return RopeScaling("llama3", _positive(rope, "factor", where=where), low, high, original)


def _size(values: dict[str, Any], key: str, default: Any = _REQUIRED, where: str = "") -> int:
    """A positive 32-bit integer; null stands for the default, as in Hugging Face's own files."""
    value = default if values.get(key) is None else values[key]
    if type(value) is not int or not 0 < value < 2**31:
        found = "nothing" if value is _REQUIRED else repr(value)
        raise LlamaError(f"config: {where}{'.' if where else ''}{key} must be a positive integer, got {found}")
    return value


def _positive(values: dict[str, Any], key: str, default: Any = _REQUIRED, where: str = "") -> float:
    value = values.get(key, default)
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        found = "nothing" if value is _REQUIRED else repr(value)
        raise LlamaError(f"config: {where}{'.' if where else ''}{key} must be a positive number, got {found}")
    return float(value)


def _flag(values: dict[str, Any], key: str) -> bool:
    value = values.get(key, False)
    if type(value) is not bool:
        raise LlamaError(f"config: {key} must be true or false, got {value!r}")
    return value


def _token_ids(value: Any, key: str) -> tuple[int, ...]:
    ids = () if value is None else tuple(value) if isinstance(value, list) else (value,)
    if any(type(i) is not int or i < 0 for i in ids):
        raise LlamaError(f"config: {key} must be a token id or a list of them, got {value!r}")
    return ids
