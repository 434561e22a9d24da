"""Tensors without elements: each dimension that may be 0 is, alone and together with others."""

from collections.abc import Callable
from itertools import product

import pytest
import torch

from pytriton_llama import kernels, reference
from tests.kernels.test_quantized_linear import draw as draw_quantized

Randn = Callable[..., torch.Tensor]


def rows(r: Randn, *shape: int) -> tuple:
    return r(*shape), r(shape[-1])


def linear(r: Randn, b: int, m: int, n: int, k: int) -> tuple:
    return r(b, m, k), r(n, k), r(n), None, r(b, m, n)


def fused_ffn(r: Randn, b: int, m: int, n: int, k: int) -> tuple:
    return r(b, m, k), r(k, n), r(n), r(b, m, n)


def rotary_embedding(r: Randn, b: int, heads: int, kv_heads: int, n: int) -> tuple:
    return r(b, heads, n, 16), r(b, kv_heads, n, 16), r(n, 16), r(n, 16)


def flash_attention(r: Randn, b: int, queries: int, keys: int) -> tuple:
    return r(b, 2, queries, 16), r(b, 1, keys, 16), r(b, 1, keys, 16), True


def flash_attention_varlen(r: Randn, queries: int, keys: int) -> tuple:
    cu_seqlens = (torch.tensor([0, n, n], dtype=torch.int32) for n in (queries, keys))
    return r(queries, 2, 16), r(keys, 1, 16), r(keys, 1, 16), *(t.to(r(0).device) for t in cu_seqlens)


def flash_decoding(r: Randn, b: int, keys: int) -> tuple:
    lengths = torch.full((b,), keys, dtype=torch.int32, device=r(0).device)
    return r(b, 2, 16), r(b, 1, keys, 16), r(b, 1, keys, 16), lengths


def decode_qkv(r: Randn, b: int) -> tuple:
    lengths = torch.ones(b, dtype=torch.int32, device=r(0).device)
    return r(b, 8), r(64, 8), r(64), r(8), 1e-5, r(3, 16), r(3, 16), lengths, r(b, 1, 3, 16), r(b, 1, 3, 16)


def quantized_linear(r: Randn, b: int, m: int, n: int) -> tuple:
    return r(b, m, 32), draw_quantized(n, 32, (4, 32, True), r(0).device), r(n), r(32), 1e-5, r(b, m, n)


# By function: how many dimensions may be 0, and the arguments.
OPERATIONS: dict[str, tuple[int, Callable[..., tuple]]] = {
    "softmax": (3, lambda r, *shape: (r(*shape),)),
    "rms_norm": (3, rows),
    "add_rms_norm": (3, lambda r, *shape: (r(*shape), *rows(r, *shape))),
    "layer_norm": (3, lambda r, *shape: (*rows(r, *shape), r(shape[-1]))),
    "silu_mul": (3, lambda r, *shape: (r(*shape), r(*shape))),
    "linear": (4, linear),
    "swiglu": (4, lambda r, b, m, n, k: (r(b, m, k), r(n, k), r(n, k))),
    "fused_ffn": (4, fused_ffn),
    "rotary_embedding": (4, rotary_embedding),
    "flash_attention": (3, flash_attention),
    "flash_attention_varlen": (2, flash_attention_varlen),
    "flash_decoding": (2, flash_decoding),
    "decode_linear": (3, lambda r, b, m, n: (r(b, m, 8), r(n, 8), r(n), r(8), 1e-5, r(b, m, n))),
    "decode_qkv": (1, decode_qkv),
    "quantized_linear": (3, quantized_linear),
    "dequantize": (1, lambda r, n: (draw_quantized(n, 32, (4, 32, True), r(0).device), torch.float16)),
}


CASES = [(op, shape) for op, (count, _) in OPERATIONS.items() for shape in product((0, 2), repeat=count)]


@pytest.mark.parametrize(("op", "shape"), CASES)
def test_empty(op, shape, randn):
    """Catches a grid or a block of size 0, a view of nothing, and an empty sum that nobody writes."""
    arguments = OPERATIONS[op][1](randn, *shape)
    copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    results, expected = getattr(kernels, op)(*arguments), getattr(reference, op)(*copies)
    torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
