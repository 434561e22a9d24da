"""Every case: its byte and FLOP formulas against an independent count, its contenders against its oracle."""

import dataclasses
import math

import pytest
import torch

from pytriton_llama.bench import check, harness, rows, settings
from pytriton_llama.bench.case import DTYPES, Point
from pytriton_llama.bench.cases import CASES
from pytriton_llama.tolerances import TOLERANCE

SMALL = {
    "rotary_embedding": (2, 5, 16),
    "linear": (4, 6, 10),
    "swiglu": (4, 6, 10),
    "ceiling_matmul": (4, 6, 10),
    "ceiling_read": (4, 10),
    "flash_attention": (1, 4, 2, 10, 16),
    "flash_decoding": (1, 4, 2, 10, 16),
    "decode_linear": (1, 10, 6),
    "quantized_linear": (1, 10, 128),
}


def small(name: str) -> Point:
    return Point(SMALL.get(CASES[name].op, (3, 10)), "fp16")


def draw(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype)


@pytest.mark.parametrize("op", CASES)
def test_bytes_are_those_of_inputs_and_outputs(op):
    """Catches an input forgotten, a weight counted a row, and cos and sin counted in 16 bits."""
    case, point = CASES[op], small(op)
    inputs = case.inputs(point, draw)
    outputs = case.oracle(*inputs)
    tensors = [*inputs, *(outputs if isinstance(outputs, tuple) else (outputs,))]
    assert case.bytes(point) == sum(t.numel() * t.element_size() for t in tensors)


class Counted(float):
    """A number that counts what is done with it."""

    count = 0

    @staticmethod
    def counting(name):
        def method(*numbers):
            Counted.count += 1
            return Counted(getattr(float, name)(*numbers))

        return method

    def unary(self, function) -> "Counted":
        Counted.count += 1
        return Counted(function(self))

    def larger(self, other) -> "Counted":
        Counted.count += 1
        return max(self, other)


for name in ("__add__", "__sub__", "__mul__", "__truediv__", "__neg__"):
    setattr(Counted, name, Counted.counting(name))


def total(numbers):
    result = numbers[0]
    for number in numbers[1:]:
        result = result + number
    return result


def softmax_row(x):
    largest = x[0]
    for number in x[1:]:
        largest = largest.larger(number)
    numerators = [(number - largest).unary(math.exp) for number in x]
    denominator = total(numerators)
    return [numerator / denominator for numerator in numerators]


def rms_norm_row(x):
    scale = (total([n * n for n in x]) / len(x) + 1e-6).unary(lambda n: n**-0.5)
    return [n * scale * Counted(2) for n in x]


def layer_norm_row(x):
    mean = total(x) / len(x)
    centred = [n - mean for n in x]
    scale = (total([n * n for n in centred]) / len(x) + 1e-5).unary(lambda n: n**-0.5)
    return [n * scale * Counted(2) + Counted(3) for n in centred]


ROWS = {
    "softmax": softmax_row,
    "rms_norm": rms_norm_row,
    "add_rms_norm": lambda x: rms_norm_row([n + n for n in x]),
    "layer_norm": layer_norm_row,
    "silu_mul": lambda x: [n / ((-n).unary(math.exp) + 1) * n for n in x],
    # Batch 2, length 5, 40 heads: 400 rows of head_dim 16.
    "rotary_embedding": lambda x: [a * Counted(0.6) - b * Counted(0.8) for a, b in zip(x, x[::-1], strict=True)],
    "ceiling_read": lambda x: total([n * n for n in x]),
}


@pytest.mark.parametrize("op", ROWS)
def test_flops_are_those_of_the_textbook(op):
    """Catches a pass left out of a closed form, and a formula per element where the row has a constant part."""
    case, point = CASES[op], small(op)
    Counted.count = 0
    ROWS[op]([Counted(n + 1) for n in range(point.shape[-1])])
    rows_of = 400 if op == "rotary_embedding" else point.shape[0]
    assert case.flops(point) == rows_of * Counted.count


@pytest.mark.parametrize("op", ["ceiling_matmul", "linear"])
def test_matmul_counts_two_a_product(op):
    """Catches a dimension counted twice."""
    assert CASES[op].flops(Point((4, 6, 10), "fp16")) == 480


def test_swiglu_counts_both_products():
    """Catches a rate that is half of what it should be, or twice."""
    assert CASES["swiglu"].flops(Point((4, 6, 10), "fp16")) == 960


def test_flash_attention_counts_both_products():
    """Catches a causal rate that is twice what it should be."""
    full, causal = (case for case in CASES.values() if case.result.startswith("fused-attention-batch4-head32-d64"))
    point = Point((2, 4, 2, 10, 16), "bf16")
    assert (full.flops(point), causal.flops(point)) == (2 * 2 * 2 * 4 * 10 * 10 * 16, 2 * 2 * 4 * 10 * 10 * 16)


def test_decode_counts():
    """Catches lengths that are all taken for the longest, and a weight of two left out."""
    mixed = Point((3, 4, 2, 64, 16), "bf16")  # lengths 64, 32, 16
    assert CASES["flash_decoding_batches"].bytes(mixed) == 2 * (2 * 2 * 16 * 112 + 2 * 3 * 4 * 16) + 12
    assert CASES["flash_decoding_batches"].flops(mixed) == 4 * 4 * 16 * 112
    assert CASES["decode_linear"].flops(Point((1, 10, 6), "bf16")) == 120
    assert CASES["decode_linear_rows"].flops(Point((3, 10, 6), "bf16")) == 720


@pytest.mark.parametrize("op", CASES)
def test_contenders_are_right(op, timer, environment, monkeypatch):
    """Catches a peer that is called with the wrong arguments, or measured for another operation."""
    case = CASES[op]
    monkeypatch.setattr(settings, "L2_BYTES", 1000)
    # Compiling for a CPU takes a minute and shows nothing: torch.compile gets the same function as torch.
    peers = {name: build for name, build in case.peers.items() if "torch.compile" not in name}
    found = harness.measure(
        dataclasses.replace(case, peers=peers), small(op), timer, environment, repeats=5, allowance=1.0
    )
    assert [row.contender for row in found if row.status == "wrong"] == []
    right = {row.contender for row in found if row.status == "ok"}
    assert right & {"torch", "cuBLAS", "cuBLAS + torch", "SDPA"}
    assert settings.OURS in right or case.kernel is None


def test_points():
    """Catches points lost, and quick points that a full run would not know."""
    for case in CASES.values():
        assert set(case.quick) <= set(case.points) and len(set(case.points)) == len(case.points)
    heights = {point.shape[-1]: point.shape[0] for point in rows.POINTS if rows.many(point)}
    assert (heights[32768], heights[65536], heights[131072], heights[4097]) == (8192, 2048, 2048, 8192)
    assert {point.dtype for point in rows.POINTS} == {"fp16", "bf16"}


def test_results_have_names_of_their_own():
    """Catches two operations that write one file."""
    assert len({case.result for case in CASES.values()}) == len(CASES)
    assert {"softmax-performance", "rms-norm-forward", "layer-norm-forward"} <= {case.result for case in CASES.values()}


def test_every_dtype_has_a_tolerance():
    """Catches a dtype that is measured and that nobody said how far it may be off in."""
    assert set(DTYPES.values()) == set(TOLERANCE)


def test_check_catches():
    """Catches a check that passes NaN, another shape, a lost output, or an element off in a row of larger ones."""
    oracle = torch.tensor([[1.0, 100.0], [1.0, 1.0]], dtype=torch.float64)
    right = oracle.half()
    assert check.wrong(right, oracle) is None
    assert check.wrong((right, right), (oracle, oracle)) is None
    assert check.wrong(right[:1], oracle) == "shape (1, 2), not (2, 2)"
    assert check.wrong(right, (oracle, oracle)) == "1 results, not 2"
    for value in (1.01, float("nan")):
        off = right.clone()
        off[1, 0] = value
        assert check.wrong((right, off), (oracle, oracle)) == "1 of 4 elements off"
    assert check.wrong(torch.tensor([1, 2]), torch.tensor([1, 2])) is None
    assert check.wrong(torch.tensor([1, 3]), torch.tensor([1, 2])) == "other bytes"
    with check.poisoned():
        assert check.wrong(torch.empty(2, 2, dtype=torch.float16), oracle) == "4 of 4 elements off"
    assert not torch.are_deterministic_algorithms_enabled()
