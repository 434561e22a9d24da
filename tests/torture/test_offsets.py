"""Offsets of 2³¹ elements and more, without the memory for them, and without a GPU.

A sparse file, mapped, has the addresses but hardly any memory: only pages that are written take some. Of a grid that
covers all of it only the last two programs are run. The interpreter stops where a 32-bit offset wrapped around.
"""

from collections.abc import Callable

import pytest
import torch

from pytriton_llama import interpreter, kernels
from pytriton_llama.interpreter import launch, trace
from pytriton_llama.kernels import QuantizedWeight, tiles
from tests.torture.cases import OPERATIONS
from tests.torture.operation import cast, draw, operands, tensors

pytestmark = pytest.mark.skipif(not interpreter.enabled(), reason="needs the fast interpreter")

PAST_31_BITS = 1 << 31
SHORT, LONG = 65, 1025  # a step of 64 keys, and one more; rows that are walked along
WALKED = ("softmax", "rms_norm", "add_rms_norm", "layer_norm")
COLUMNS = 2048
ROWS = PAST_31_BITS // COLUMNS + 1
CHEAP = {"races": False, "uninitialized": False}  # these keep a note of every byte
Memory = Callable[..., torch.Tensor]


@pytest.fixture
def memory(tmp_path) -> Memory:
    """Zeros of any shape in a sparse file, the last row random."""

    def make(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        count = int(torch.tensor(shape).prod())
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        t = torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
        row = torch.randn(shape[-1], generator=torch.Generator().manual_seed(count))
        t.view(-1, shape[-1])[-1] = row if dtype.is_floating_point else (row * 1e9).to(dtype)
        return t

    return make


@pytest.fixture(autouse=True)
def untouched_memory(poisoned_memory, monkeypatch):
    """What is not written takes no memory."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)


def far_dimensions() -> list:
    """(operation, operand, dimension, length) wherever an operand may have any stride."""
    found = []
    for op, length in [*((op, SHORT) for op in OPERATIONS), *((op, LONG) for op in WALKED)]:
        operation = OPERATIONS[op]
        arguments = tensors(draw(operation, length))
        for name in (*operands(operation, length), *operation.written):
            t, free = arguments[name], name not in operation.contiguous and "." not in name
            dims = range(t.dim() - (name in operation.unit)) if free and t.dim() > 1 else ()
            for dim in dims:
                # A stride of 2³¹ itself is a 64-bit argument: no product with it wraps around.
                assert t.shape[dim] != 2, f"{op}: {name} needs 3 places along dimension {dim}, or 1"
                if t.shape[dim] > 1:
                    found.append((op, name, dim, length))
    return found


@pytest.mark.parametrize(("op", "name", "dim", "length"), far_dimensions())
def test_strides(op, name, dim, length, memory):
    """Catches an index that meets a stride in 32 bits, and a step along a dimension that is multiplied in 32 bits."""
    operation = OPERATIONS[op]
    arguments = cast(draw(operation, length), torch.float16, "cpu")
    expected = operation.run(kernels, arguments)
    t, strides = arguments[name], list(arguments[name].stride())
    strides[dim] = -(-PAST_31_BITS // (t.shape[dim] - 1))
    whole = memory(PAST_31_BITS + t.numel(), 1, dtype=t.dtype)
    arguments[name] = whole.as_strided(t.shape, strides).copy_(t)
    with trace(**CHEAP):
        results = operation.run(kernels, arguments, in_place=True)
    for result, one in zip(results, expected, strict=True):
        torch.testing.assert_close(result, one, rtol=0, atol=0, equal_nan=True)


def rows(function: str, inputs: int, *others: torch.Tensor, of: Callable = lambda y: y) -> Callable:
    """Rows that are all the same one take no memory; those of the result are in different places."""

    def make(memory: Memory):
        one = [memory(1, COLUMNS) + i for i in range(inputs)]
        return function, [*(t.expand(ROWS, COLUMNS) for t in one), *others], [*one, *others], lambda y: of(y)[-1]

    return make


def product(function: str, *weights: torch.Tensor) -> Callable:
    def make(memory: Memory):
        x = memory(1, 16)
        return function, [x.expand(ROWS, 16), *weights], [x, *weights], lambda y: y[-1, -16:]

    return make


def rotary_embedding(memory: Memory):
    length, turns = PAST_31_BITS // 256 + 1, memory(PAST_31_BITS // 256 + 1, 128, dtype=torch.float32)
    q, k = memory(1, 2, 1, 128), memory(1, 1, 1, 128)
    long = [t.expand(-1, -1, length, -1) for t in (q, k)]
    return "rotary_embedding", [*long, turns, turns], [q, k, turns[-1:], turns[-1:]], lambda qk: qk[0][0, :, -1]


def flash_attention(memory: Memory):
    q, k = memory(1, 64, 1, 32), memory(1, 64, 20, 32)
    long = q.expand(-1, -1, PAST_31_BITS // 2048 + 1, -1)
    return "flash_attention", [long, k, k], [q, k, k], lambda o: o[0, -1, -1]


def flash_attention_varlen(memory: Memory):
    q, k, length = memory(1, 64, 32), memory(20, 64, 32), PAST_31_BITS // 2048 + 1
    ends = [torch.tensor([0, n], dtype=torch.int32) for n in (length, 1, 20)]
    long = [q.expand(length, -1, -1), k, k, ends[0], ends[2]]
    return "flash_attention_varlen", long, [q, k, k, ends[1], ends[2]], lambda o: o[-1, -1]


def decode_linear(M: int) -> Callable:
    def make(memory: Memory):
        x, weight = memory(M, COLUMNS), memory(ROWS, COLUMNS)
        return "decode_linear", [x, weight], [x, weight[-1:]], lambda y: y[:, -1]

    return make


def quantized(memory: Memory, N: int, words: int) -> QuantizedWeight:
    packed, scales = memory(N, words, dtype=torch.int32), memory(N, words // 4)
    return QuantizedWeight(packed, scales, None, 4, 32)


def quantized_linear(M: int) -> Callable:
    def make(memory: Memory):
        x, weight = memory(M, 8 * COLUMNS), quantized(memory, ROWS, COLUMNS)
        return "quantized_linear", [x, weight], [x, weight[-1:]], lambda y: y[:, -1]

    return make


def dequantize(memory: Memory):
    weight = quantized(memory, ROWS, COLUMNS // 8)
    return "dequantize", [weight, torch.float16], [weight[-1:], torch.float16], lambda y: y[-1]


WEIGHT = torch.ones(COLUMNS, dtype=torch.float16)
MATRIX = torch.linspace(-1, 1, COLUMNS * 16).view(COLUMNS, 16).half()
RESULTS = {
    "softmax": rows("softmax", 1),
    "rms_norm": rows("rms_norm", 1, WEIGHT),
    "add_rms_norm": rows("add_rms_norm", 2, WEIGHT, of=lambda both: [torch.stack([t[-1] for t in both])]),
    "layer_norm": rows("layer_norm", 1, WEIGHT, WEIGHT),
    "silu_mul": rows("silu_mul", 2),
    "linear": product("linear", MATRIX),
    "swiglu": product("swiglu", MATRIX, MATRIX.flip(0)),
    "fused_ffn": product("fused_ffn", MATRIX.t().contiguous()),
    "rotary_embedding": rotary_embedding,
    "flash_attention": flash_attention,
    "flash_attention_varlen": flash_attention_varlen,
    "decode_linear, one row": decode_linear(1),
    "decode_linear": decode_linear(3),
    "quantized_linear, one row": quantized_linear(1),
    "quantized_linear": quantized_linear(3),
    "dequantize": dequantize,
}


@pytest.mark.parametrize("op", RESULTS)
def test_last_element(op, memory, monkeypatch):
    """Catches a row of 2³¹ elements or later that is read, written, or taken for one past the end, in 32 bits."""
    function, arguments, few, last = RESULTS[op](memory)
    expected = getattr(kernels, function)(*few)
    one_row = {"BLOCK_M": 1, "BLOCK_N": 2, "BLOCK_K": 32}
    monkeypatch.setattr(
        tiles, "quantized_linear", lambda M, N, *_: (-(-N // 2), one_row | {"BLOCK_M": M if M == 1 else 16})
    )
    # One may be a spare, as the attention's last is.
    monkeypatch.setattr(launch, "range", lambda n: range(max(n - 2, 0), n), raising=False)
    with trace(**CHEAP):
        result = getattr(kernels, function)(*arguments)
    torch.testing.assert_close(last(result), last(expected), rtol=0, atol=0)


def test_embedding_of_a_late_token(memory, monkeypatch):
    """Catches a token that meets the hidden size in 32 bits."""
    V = 1 << 19
    monkeypatch.setattr(tiles, "INTERPRETED_ROWS", V)
    arguments = cast(draw(OPERATIONS["next_token"], 3), torch.float16, "cpu")
    arguments["embedding"] = memory(V, PAST_31_BITS // V + 8)
    arguments["logits"] = torch.zeros(3, V, dtype=torch.float16)
    arguments["logits"][:, -1] = 65504
    arguments["x"] = torch.empty(3, arguments["embedding"].shape[1], dtype=torch.float16)
    with trace(**CHEAP):
        kernels.next_token(*arguments.values())
    assert torch.equal(arguments["x"], arguments["embedding"][-1:].expand(3, -1))
