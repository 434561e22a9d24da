"""One file an operation: formula, kernel, wrapper. Layouts are torch's; all are forward only."""

from pytriton_llama.kernels.decode_linear import decode_linear, decode_qkv
from pytriton_llama.kernels.flash_attention import flash_attention, flash_attention_varlen
from pytriton_llama.kernels.flash_decoding import flash_decoding
from pytriton_llama.kernels.fused_ffn import fused_ffn, silu_mul, swiglu
from pytriton_llama.kernels.layer_norm import layer_norm
from pytriton_llama.kernels.linear import linear
from pytriton_llama.kernels.next_token import next_token
from pytriton_llama.kernels.quantized_linear import dequantize, quantized_linear, quantized_qkv
from pytriton_llama.kernels.quantized_weight import QuantizedWeight
from pytriton_llama.kernels.rms_norm import add_rms_norm, rms_norm
from pytriton_llama.kernels.rotary_embedding import rotary_embedding
from pytriton_llama.kernels.softmax import softmax

__all__ = [
    "QuantizedWeight",
    "add_rms_norm",
    "decode_linear",
    "decode_qkv",
    "dequantize",
    "flash_attention",
    "flash_attention_varlen",
    "flash_decoding",
    "fused_ffn",
    "layer_norm",
    "linear",
    "next_token",
    "quantized_linear",
    "quantized_qkv",
    "rms_norm",
    "rotary_embedding",
    "silu_mul",
    "softmax",
    "swiglu",
]
