"""A GGUF file's tensors under Hugging Face's names: dequantised to bf16, or bits repacked as they are.

Q4_0, Q4_1 and Q8_0 are blocks of 32 weights of a row; each is a group of a ``QuantizedWeight``. In a 4-bit block byte j
holds weight j in its low half, and weight j + 16 in its high one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, dequantize
from tqdm.auto import tqdm

from pytriton_llama.errors import LlamaError
from pytriton_llama.kernels.quantized_weight import QuantizedWeight, join, pack
from pytriton_llama.llama.checkpoint import check_finite, expected_shapes
from pytriton_llama.llama.config import LlamaConfig
from pytriton_llama.llama.rope import inverse_frequencies
from pytriton_llama.llama.scheme import Scheme

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
ROPE_FREQS = "rope_freqs.weight"
_ROWS = 512  # converted at a time: a whole embedding in float32 takes gigabytes
_BLOCK = 32
SCHEMES = {
    GGMLQuantizationType.Q4_0: Scheme(4, _BLOCK, False),
    GGMLQuantizationType.Q4_1: Scheme(4, _BLOCK, True),
    GGMLQuantizationType.Q8_0: Scheme(8, _BLOCK, False),
}
_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


def weights(
    tensors: dict[str, Any], config: LlamaConfig, keep: bool
) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
    """Name and weight, one by one, rows in Hugging Face's order. All are bf16, or, with ``keep``, as they are in the
    file where they can be: packed, float32 or float16.

    Raises :class:`LlamaError` before the first for a file whose tensors are not those of ``config``.
    """
    if ROPE_FREQS in tensors:
        _check_rope_freqs(tensors[ROPE_FREQS], config)
    shapes = expected_shapes(config)
    names = {_gguf_name(name): name for name in shapes}
    for name, tensor in tensors.items():
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if name != ROPE_FREQS and shape != shapes.get(names.get(name, "")):
            raise LlamaError(f"GGUF tensor {name} of shape {shape} has no place in the model")
    missing = names.keys() - tensors.keys()
    if missing:
        raise LlamaError(f"{len(missing)} tensors are missing from the GGUF file, among them {min(missing)}")
    # Minutes for a large model; no bar where nobody looks on.
    for name, shape in tqdm(shapes.items(), desc="converting", disable=None):
        tensor = tensors[_gguf_name(name)]
        kept = keep and tensor.tensor_type in SCHEMES and len(shape) == 2
        weight = _packed(tensor) if kept else _plain(tensor, keep).reshape(shape)
        rotary = ".q_proj." in name or ".k_proj." in name
        yield name, weight[_half_split(shape[0], config.head_dim)] if rotary else weight


def scheme(tensors: dict[str, Any]) -> Scheme:
    """That of most of the linear layers' tensors that can be kept. Raises :class:`LlamaError` where none can."""
    found = [tensor.tensor_type for name, tensor in tensors.items() if name.startswith("blk.")]
    kept = [SCHEMES[kind] for kind in found if kind in SCHEMES]
    if not kept:
        known = ", ".join(kind.name for kind in SCHEMES)
        kinds = ", ".join(sorted({kind.name for kind in found}))
        raise LlamaError(f"no layer's tensor is quantised as can be kept ({known}); they are {kinds or 'none'}")
    return max(kept, key=kept.count)


def expanded(tensors: dict[str, Any]) -> list[str]:
    """The names of the types that ``keep`` does not keep."""
    return sorted({t.tensor_type.name for t in tensors.values() if t.tensor_type not in SCHEMES | _PLAIN})


def _check_rope_freqs(tensor: Any, config: LlamaConfig) -> None:
    """Refuses divisors of frequencies that are not those of Llama 3."""
    divisors = inverse_frequencies(replace(config, rope_scaling=None)) / inverse_frequencies(config)
    if tensor.data.shape != divisors.shape or not np.allclose(tensor.data, divisors.numpy(), rtol=1e-4):
        raise LlamaError(f"GGUF tensor {ROPE_FREQS}: only Llama 3's own scaling of frequencies is supported")


def _plain(tensor: Any, keep: bool) -> torch.Tensor:
    dtype = _PLAIN.get(tensor.tensor_type, torch.bfloat16) if keep else torch.bfloat16
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    parts = []
    try:
        for start in range(0, len(rows), _ROWS):
            with np.errstate(all="ignore"):  # what is not finite is refused below
                values = dequantize(rows[start : start + _ROWS], tensor.tensor_type)
            parts.append(torch.from_numpy(np.array(values, dtype=np.float32)).to(dtype))
    except (NotImplementedError, ValueError) as error:
        raise LlamaError(f"GGUF tensor {tensor.name}: {tensor.tensor_type.name}: {error}") from error
    weight = torch.cat(parts)
    check_finite(weight, tensor.name)
    return weight


def _packed(tensor: Any) -> QuantizedWeight:
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    form = SCHEMES[tensor.tensor_type]
    weight = join([_repack(rows[start : start + _ROWS], form) for start in range(0, len(rows), _ROWS)])
    for numbers in (weight.scales, weight.minima):
        if numbers is not None:
            check_finite(numbers, tensor.name)
    return weight


def _repack(rows: np.ndarray, form: Scheme) -> QuantizedWeight:
    """Rows (N, bytes) of blocks: the scale, where there is one the minimum, and the weights' bits."""
    head = 4 if form.minima else 2
    blocks = torch.from_numpy(np.array(rows)).unflatten(1, (-1, head + _BLOCK * form.bits // 8))
    numbers, bits = blocks[..., :head].contiguous().view(torch.float16), blocks[..., head:]
    # A signed byte, as an unsigned one, is 256 too large where it is negative: its highest bit says which.
    q = torch.cat([bits & 15, bits >> 4], dim=-1) if form.bits == 4 else bits ^ 128
    minima = numbers[..., 1].contiguous() if form.minima else None
    return QuantizedWeight(pack(q.flatten(1), form.bits), numbers[..., 0].contiguous(), minima, form.bits, _BLOCK)


def _half_split(rows: int, head_dim: int) -> torch.Tensor:
    """Where Hugging Face's rows (pairs half a head apart) stand in GGUF's rotary order (pairs side by side)."""
    return torch.arange(rows).unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten()


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_INNER[part]}.{kind}"
