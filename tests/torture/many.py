"""Every kernel, and every path through it, at sizes that fill a GPU: tiles that overhang, walks that are cut into
pieces, programs that take one tile after another or count each other."""

from collections.abc import Callable

import torch

from tests.kernels.test_next_token import state
from tests.torture import inputs
from tests.torture.inputs import CACHES, packed, weight
from tests.torture.operation import Arguments, Operation, cast


def swiglu(M: int, N: int, K: int) -> Callable:
    return lambda r, n: {"x": r(M, K), "gate_weight": weight(r, N, K), "up_weight": weight(r, N, K)}


def fused_ffn(r: Callable, n: int) -> Arguments:
    x, w, bias = r(130, 1032), r(1032, 2056) / 32, r(2056)
    first = {"x": x, "weight": w, "bias": bias, "residual": r(130, 2056)}
    return first | {"activation": "silu", "dropout_p": 0.25, "seed": 7}


def attention(batch: int, length_q: int, length_k: int, head_dim: int, window: int | None = None) -> Callable:
    """Causal; three query heads share a key/value head."""

    def draw(r: Callable, n: int) -> Arguments:
        q, k, v = (r(batch, heads, n, head_dim) for heads, n in ((6, length_q), (2, length_k), (2, length_k)))
        return {"q": q, "k": k, "v": v, "causal": True, "scale": None, "window": window, "return_lse": True}

    return draw


def varlen(r: Callable, n: int) -> Arguments:
    starts = [0, 1, 700, 700, 1001]
    cu_seqlens = {f"cu_seqlens_{s}": torch.tensor(starts, dtype=torch.int32) for s in "qk"}
    return {"q": r(1001, 6, 64), "k": r(1001, 2, 64), "v": r(1001, 2, 64), **cu_seqlens, "causal": True}


def decoding(batch: int, length: int, head_dim: int) -> Callable:
    def draw(r: Callable, n: int) -> Arguments:
        lengths = torch.tensor([length // (b + 1) for b in range(batch)], dtype=torch.int32)
        caches = {name: r(batch, 2, length, head_dim) for name in CACHES}
        return {"q": r(batch, 6, head_dim), **caches, "lengths": lengths}

    return draw


def decode_linear(M: int, N: int, K: int, gated: bool) -> Callable:
    def draw(r: Callable, n: int) -> Arguments:
        up = weight(r, N, K) if gated else None
        first = {"x": r(M, K), "weight": weight(r, N, K), "bias": None if gated else r(N), "norm_weight": r(K)}
        return first | {"eps": 1e-5, "residual": r(M, N), "up_weight": up}

    return draw


def tokens(r: Callable, n: int) -> Arguments:
    values = state(
        "cpu", temperature=[0.0, 1.0, 0.5], seeds=[1, 2, 3], lengths=[3, 10, 5], limits=[6, 10, 100], running=[1, 1, 1],
        stop_tokens=[5, 7], tokens=[[9] * 3] * 2, steps=[0] * 3,
    )  # fmt: skip
    x = torch.full((3, 40), torch.nan, dtype=torch.float64)
    return {"logits": r(3, 70_001), **values, "embedding": r(70_001, 40), "x": x}


def sized(length: int, draw: Callable) -> Callable:
    return lambda r, n: draw(r, length)


def of_rows(M: int, N: int, *weights: str) -> Callable:
    return lambda r, n: {"x": r(M, N)} | {name: r(N) for name in weights}


def many(function: str, draw: Callable, written: tuple[str, ...] = ()) -> Operation:
    return Operation(function, draw, None, written=written)


MANY = {
    "softmax": many("softmax", of_rows(1001, 1000)),
    "softmax, walked": many("softmax", of_rows(33, 100_003)),
    "rms_norm": many("rms_norm", of_rows(1001, 1000, "weight")),
    "rms_norm, walked": many("rms_norm", of_rows(33, 100_008, "weight")),
    "add_rms_norm, walked": many(
        "add_rms_norm", lambda r, n: {"x": r(33, 70_001), "residual": r(33, 70_001), "weight": r(70_001)}
    ),
    "layer_norm": many("layer_norm", of_rows(1001, 1000, "weight", "bias")),
    "layer_norm, walked": many("layer_norm", of_rows(33, 100_008, "weight", "bias")),
    "silu_mul": many("silu_mul", lambda r, n: {"gate": r(333, 1111), "up": r(333, 1111)}),
    "linear, cut along K": many("linear", inputs.linear(300, 4104, 8192, None)),
    "linear, few rows, cut along K": many("linear", inputs.linear(8, 4096, 14336, "silu")),
    "linear, persistent": many("linear", inputs.linear(4100, 2056, 520, "gelu_tanh")),
    "linear, by pointers": many("linear", inputs.linear(70, 1031, 1029, None)),
    "swiglu": many("swiglu", swiglu(300, 2056, 1032)),
    "swiglu, by pointers": many("swiglu", swiglu(70, 1031, 1029)),
    "fused_ffn": many("fused_ffn", fused_ffn),
    "rotary_embedding": many(
        "rotary_embedding",
        lambda r, n: {"q": r(2, 6, 1001, 64), "k": r(2, 2, 1001, 64), **inputs.angles(torch.arange(1001), 64)},
    ),
    "flash_attention, three consumers": many("flash_attention", attention(1, 4161, 4161, 64)),
    "flash_attention, head_dim 128": many("flash_attention", attention(3, 1001, 1100, 128)),
    "flash_attention, window": many("flash_attention", attention(3, 1001, 1001, 128, 200)),
    "flash_attention, head_dim 256": many("flash_attention", attention(3, 1001, 1001, 256)),
    "flash_attention, head_dim 100": many("flash_attention", attention(3, 1001, 1001, 100)),
    "flash_attention_varlen": many("flash_attention_varlen", varlen),
    "flash_decoding": many("flash_decoding", decoding(1, 20_001, 128)),
    "flash_decoding, batch": many("flash_decoding", decoding(5, 3001, 64)),
    "decode_linear, one row": many("decode_linear", decode_linear(1, 1031, 4104, False)),
    "decode_linear, one row, gated": many("decode_linear", decode_linear(1, 1031, 1029, True)),
    "decode_linear": many("decode_linear", decode_linear(5, 1031, 1032, False)),
    "decode_linear, gated": many("decode_linear", decode_linear(5, 9001, 1032, True)),
    "decode_qkv, one row": many("decode_qkv", sized(1032, inputs.qkv(1, None)), CACHES),
    "decode_qkv": many("decode_qkv", sized(1032, inputs.qkv(3, None)), CACHES),
    "quantized_linear, one row": many("quantized_linear", sized(1031, inputs.step(1, False, packed(4, None, 1024)))),
    "quantized_linear, gated": many("quantized_linear", sized(1031, inputs.step(1, True, packed(4, None, 1024, True)))),
    "quantized_linear, some rows": many(
        "quantized_linear", sized(1031, inputs.step(5, True, packed(4, None, 1024, True)))
    ),
    "quantized_linear, many rows": many("quantized_linear", sized(1031, inputs.step(65, False, packed(4, None, 1024)))),
    "quantized_qkv, one row": many("quantized_qkv", sized(65, inputs.qkv(1, 4)), CACHES),
    "quantized_qkv": many("quantized_qkv", sized(65, inputs.qkv(3, 4)), CACHES),
    "next_token": many("next_token", tokens, ("lengths", "running", "tokens", "steps", "x")),
}


def draw(operation: Operation, dtype: torch.dtype, device: str, seed: int = 0) -> Arguments:
    generator = torch.Generator(device).manual_seed(seed)
    arguments = operation.draw(
        lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64, device=device), 0
    )
    return cast(arguments, dtype, device)
