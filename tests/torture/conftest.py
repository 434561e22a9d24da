"""The kernel tests' fixtures, and tiles as small as a GPU's: several programs, several steps of each."""

import pytest

from pytriton_llama.kernels import tiles
from pytriton_llama.runtime import interpreted
from tests.kernels.conftest import device, dtype, poisoned_memory, randn  # noqa: F401
from tests.kernels.test_decode_linear import ONE_ROW, SLICED

MATRIX = {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64, "GROUP_M": 2}


def quantized_tile(M, N, K, weights, weight, dtype):  # noqa: F811
    BLOCK_N = 256 if N > 256 else 2 if M == 1 else 16
    tile = {"BLOCK_M": 1 if M == 1 else 16 if M <= 16 else 128, "BLOCK_N": BLOCK_N, "BLOCK_K": 32}
    return 3 if M == 1 else -(-N // BLOCK_N), tile


def attention_tile(length_q, length_k, head_dim, q):
    return {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_D": 32}


def decoding_tile(batch, kv_heads, group, max_length, head_dim, q):
    return 4, {"BLOCK_B": 4, "BLOCK_N": 64, "BLOCK_D": 32, "BLOCK_G": 16, "MIN_STEPS": 1}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """In the interpreter, whose own tiles are large: rows above 1024 are walked along."""
    if not interpreted():
        yield
        return
    for name, value in {
        "INTERPRETED_ROWS": 2048,
        "INTERPRETED_ROW": 1024,
        "INTERPRETED_WALK": 512,
        "_interpreted_linear": lambda *_: dict(MATRIX),
        "decode_linear": lambda M, *_: ONE_ROW if M == 1 else SLICED,
        "quantized_linear": quantized_tile,
        "fuses_qkv": lambda M: M <= tiles.DECODE_ROWS,
        "flash_attention": attention_tile,
        "flash_decoding": decoding_tile,
    }.items():
        monkeypatch.setattr(tiles, name, value)
    cached = tiles.linear, tiles.swiglu
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()
