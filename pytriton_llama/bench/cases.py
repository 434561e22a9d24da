"""Every operation that has a benchmark."""

from pytriton_llama.bench import ceilings, fused_ffn, layer_norm, linear, rms_norm, rotary_embedding, softmax
from pytriton_llama.bench.case import Case

_MODULES = (softmax, rms_norm, layer_norm, fused_ffn, rotary_embedding, linear, ceilings)
CASES: dict[str, Case] = {case.op: case for module in _MODULES for case in module.CASES}
