"""Every operation that has a benchmark, and every case of one that has several."""

from pytriton_llama.bench import (
    ceilings,
    decode_linear,
    flash_attention,
    flash_decoding,
    fused_ffn,
    layer_norm,
    linear,
    quantized_linear,
    rms_norm,
    rotary_embedding,
    softmax,
)
from pytriton_llama.bench.case import Case

_MODULES = (
    softmax,
    rms_norm,
    layer_norm,
    fused_ffn,
    rotary_embedding,
    linear,
    flash_attention,
    flash_decoding,
    decode_linear,
    quantized_linear,
    ceilings,
)
CASES: dict[str, Case] = {case.name: case for module in _MODULES for case in module.CASES}
