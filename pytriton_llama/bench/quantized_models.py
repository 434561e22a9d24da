"""Random models with weights in 8 or 4 bits, and the same in 16."""

import copy
from typing import Any

import torch

from pytriton_llama.errors import LlamaError
from pytriton_llama.kernels import QuantizedWeight, dequantize
from pytriton_llama.llama.generator import Llama
from pytriton_llama.llama.scheme import KEY, Scheme
from pytriton_llama.llama.shapes import SHAPES


def quantized(config: str, bits: int) -> Llama:
    """Random weights of a shape: 4 bits in groups of 128, or 8 bits and a scale a row."""
    if config not in SHAPES:
        raise LlamaError(f"bench: --bits is for a shape's name: {', '.join(SHAPES)}")
    scheme = Scheme(bits, 128 if bits == 4 else None, minima=False)
    return Llama.from_config(SHAPES[config] | {KEY: scheme.to_dict()})


def expanded(llama: Llama) -> Llama:
    """The same weights in the model's own type."""
    model = copy.copy(llama.model)
    model.embed_tokens, model.lm_head = (_expanded(t, model.dtype) for t in (model.embed_tokens, model.lm_head))
    model.layers = [copy.copy(layer) for layer in model.layers]
    for layer in model.layers:
        vars(layer).update({name: _expanded(t, model.dtype) for name, t in vars(layer).items()})
    return Llama(model, None, llama.name)


def _expanded(t: Any, dtype: torch.dtype) -> Any:
    return dequantize(t, dtype) if isinstance(t, QuantizedWeight) else t
