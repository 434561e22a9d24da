"""What is tortured: every public operation, on every way that its wrapper may send it."""

import torch

from tests.kernels.test_next_token import FIELDS
from tests.torture import inputs, sizes
from tests.torture.inputs import CACHES, packed, qkv, step, weight
from tests.torture.operation import Operation

QKV_CONTIGUOUS = ("x", "weight", "bias", "norm_weight", "cos", "sin", "lengths")
STEP_CONTIGUOUS = ("x", "weight", "bias", "norm_weight", "residual", "up_weight")
ROWS = {"x": 1, "residual": 1}
PRODUCT = {"size": sizes.linear, "first": ROWS}
ROTARY = {"size": sizes.rotary_embedding, "terms": lambda n: 2, "unit": ("q", "k"), "first": {"q": 1, "k": 1}}
ATTENTION = {"size": sizes.attention, "unit": ("q", "k", "v"), "first": {"q": 1, "k": 1, "v": 1}}
VARLEN = {"size": sizes.varlen, "unit": ("q", "k", "v")}
DECODING = {"size": sizes.decoding, "unit": ("q", *CACHES), "first": {"q": 1, "k_cache": 1, "v_cache": 1}}
STEP = {"size": sizes.step, "contiguous": STEP_CONTIGUOUS}
QKV = {"size": sizes.qkv, "contiguous": QKV_CONTIGUOUS, "unit": CACHES, "written": CACHES, "first": {"x": 1}}
NEXT_TOKEN = {
    "size": None,
    "least": 1,
    "contiguous": ("logits", "embedding", "x", *FIELDS),
    "written": ("lengths", "running", "tokens", "steps", "x"),
    "first": {"logits": 1},
}


def of_40(n: int) -> int:
    return 40


def of_64(n: int) -> int:
    return 64


OPERATIONS = {
    "softmax": Operation("softmax", lambda r, n: {"x": 4 * r(3, n)}, sizes.softmax, first=ROWS),
    "softmax of columns": Operation("softmax", lambda r, n: {"x": r(n, 3), "dim": 0}, sizes.softmax),
    "rms_norm": Operation("rms_norm", lambda r, n: {"x": r(3, n), "weight": r(n)}, sizes.rms_norm, first=ROWS),
    "add_rms_norm": Operation(
        "add_rms_norm",
        lambda r, n: {"x": r(3, n), "residual": r(3, n), "weight": r(n)},
        sizes.add_rms_norm,
        first=ROWS,
    ),
    "layer_norm": Operation(
        "layer_norm", lambda r, n: {"x": r(3, n), "weight": r(n), "bias": r(n)}, sizes.layer_norm, first=ROWS
    ),
    "silu_mul": Operation(
        "silu_mul",
        lambda r, n: {"gate": r(3, n), "up": r(3, n)},
        sizes.silu_mul,
        terms=lambda n: 1,
        first={"gate": 1, "up": 1},
    ),
    "linear": Operation("linear", inputs.linear(3, 21, None, "gelu_tanh"), **PRODUCT),
    "linear, many columns": Operation("linear", inputs.linear(3, None, 40, "silu"), terms=of_40, **PRODUCT),
    "linear, many rows": Operation("linear", inputs.linear(None, 21, 40, None), terms=of_40, **PRODUCT),
    "swiglu": Operation(
        "swiglu",
        lambda r, n: {"x": r(3, n), "gate_weight": weight(r, 21, n), "up_weight": weight(r, 21, n)},
        sizes.swiglu,
        first=ROWS,
    ),
    "fused_ffn": Operation("fused_ffn", inputs.fused_ffn, sizes.fused_ffn, first=ROWS),
    "rotary_embedding": Operation("rotary_embedding", inputs.rotary_embedding(None), **ROTARY),
    "rotary_embedding, positions of each": Operation(
        "rotary_embedding", inputs.rotary_embedding([0, 7, 100]), **ROTARY
    ),
    "flash_attention": Operation("flash_attention", inputs.attention(5, True, False), **ATTENTION),
    "flash_attention, window": Operation("flash_attention", inputs.attention(5, True, True), **ATTENTION),
    "flash_attention, many queries": Operation("flash_attention", inputs.attention(None, False, False), **ATTENTION),
    "flash_attention_varlen": Operation("flash_attention_varlen", inputs.varlen(False), **VARLEN),
    "flash_attention_varlen, causal": Operation("flash_attention_varlen", inputs.varlen(True), **VARLEN),
    "flash_decoding": Operation("flash_decoding", inputs.decoding(False), **DECODING),
    "flash_decoding, window": Operation("flash_decoding", inputs.decoding(True), **DECODING),
    "decode_linear, one row": Operation("decode_linear", step(1, False), least=1, **STEP),
    "decode_linear": Operation("decode_linear", step(3, False), least=1, first=ROWS, **STEP),
    "decode_linear, gated": Operation("decode_linear", step(3, True), least=1, first=ROWS, **STEP),
    "decode_linear, many rows": Operation("decode_linear", step(17, True), least=1, first=ROWS, **STEP),
    "decode_qkv": Operation("decode_qkv", qkv(3, None), least=1, **QKV),
    "decode_qkv, many rows": Operation("decode_qkv", qkv(17, None), least=1, **QKV),
    "quantized_linear, one row": Operation(
        "quantized_linear",
        step(1, False, packed(4, 5, 32), normed=False),
        terms=lambda n: 32 * n,
        least=1,
        apart=True,
        **STEP,
    ),
    "quantized_linear, one row, minima": Operation(
        "quantized_linear", step(1, True, packed(4, None, 64, True)), terms=of_64, apart=True, **STEP
    ),
    "quantized_linear, one row, 8 bits": Operation(
        "quantized_linear", step(1, False, packed(8, None, 64)), terms=of_64, apart=True, **STEP
    ),
    "quantized_linear": Operation(
        "quantized_linear", step(3, False, packed(4, None, 64), normed=False), terms=of_64, first=ROWS, **STEP
    ),
    "quantized_linear, minima": Operation(
        "quantized_linear", step(3, True, packed(4, None, 64, True)), terms=of_64, first=ROWS, apart=True, **STEP
    ),
    "quantized_linear, 8 bits": Operation(
        "quantized_linear", step(3, False, packed(8, None, 64, True)), terms=of_64, first=ROWS, apart=True, **STEP
    ),
    "quantized_linear, many rows": Operation(
        "quantized_linear", step(65, True, packed(4, None, 64)), terms=of_64, first=ROWS, **STEP
    ),
    "quantized_qkv, one row": Operation("quantized_qkv", qkv(1, 4), terms=of_64, apart=True, **QKV),
    "quantized_qkv": Operation("quantized_qkv", qkv(3, 4), terms=of_64, **QKV),
    "quantized_qkv, many rows": Operation("quantized_qkv", qkv(17, 8), terms=of_64, **QKV),
    "dequantize": Operation(
        "dequantize", lambda r, n: {"weight": packed(4, None, 64, True)(n, 0), "dtype": torch.float32}, None
    ),
    "dequantize, 8 bits": Operation(
        "dequantize", lambda r, n: {"weight": packed(8, None, 64)(n, 0), "dtype": torch.float32}, None
    ),
    "next_token": Operation("next_token", inputs.tokens(False), **NEXT_TOKEN),
    "next_token, packed embedding": Operation("next_token", inputs.tokens(True), **NEXT_TOKEN),
}
