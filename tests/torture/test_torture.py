"""Every public operation, with every length, value and layout that breaks kernels, against float64.

In the interpreter one thing at a time is unusual. The slow tests have the product of values and lengths.
"""

import pytest
import torch

from pytriton_llama import kernels, reference
from tests.tolerances import assert_within, error_bound
from tests.torture.cases import OPERATIONS, Operation, cast, draw, in_dtype, operands
from tests.torture.values import VALUES

LENGTHS = (0, 1, 2, 3, 17, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097)
MIDDLING, LONG = 129, 1025  # of the latter, rows are walked along
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Every operand of every operation.
OPERANDS = [(op, name) for op in OPERATIONS for name in operands(OPERATIONS[op], MIDDLING)]


@pytest.fixture(params=OPERATIONS.values(), ids=OPERATIONS)
def operation(request) -> Operation:
    return request.param


def check(operation: Operation, arguments: dict, length: int) -> None:
    results, native = operation.run(kernels, arguments), operation.run(reference, arguments)
    if operation.size is None:
        for result, expected in zip(results, native, strict=True):
            torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
        return
    wide = in_dtype(arguments, torch.float64)
    singles = [
        t.to(n.dtype) for t, n in zip(operation.run(reference, in_dtype(arguments, torch.float32)), native, strict=True)
    ]
    oracles, sizes = operation.run(reference, wide), operation.size(*wide.values())
    for result, oracle, torchs, (size, rounded) in zip(
        results, oracles, zip(native, singles, strict=True), sizes, strict=True
    ):
        bound = error_bound(result.dtype, oracle, size.to(oracle), rounded.to(oracle), operation.terms(length))
        assert_within(result, oracle, torchs, bound)


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(operation, length, dtype, device):
    """Catches a mask left out or off by one, a last block forgotten or done twice, a division by a length of 0."""
    arguments = cast(draw(operation, length), dtype, device)
    if length < operation.least:
        with pytest.raises(ValueError, match=r"must|needed|empty"):
            operation.run(kernels, arguments)
        return
    check(operation, arguments, length)


def with_values():
    """(operation, operand, values, dtype, length): the product, of which all but a part is slow."""
    for op, name in OPERANDS:
        for values in VALUES:
            for dtype in DTYPES:
                for length in (MIDDLING, LONG):
                    slow = {"fp32": MIDDLING, "bf16": LONG}.get(dtype) == length
                    marks = [pytest.mark.slow] if slow else []
                    each = (op, name, values, dtype, length)
                    yield pytest.param(*each, marks=marks, id="-".join(map(str, each)))


@pytest.mark.parametrize(("op", "name", "values", "dtype", "length"), with_values())
def test_values(op, name, values, length, dtype, device):
    """Catches squares or products formed in 16 bits, exp without its maximum taken off, denormals flushed to zero, NaN
    hidden or spread, −inf − (−inf). One operand at a time has them."""
    arguments, dtype = draw(OPERATIONS[op], length), DTYPES[dtype]
    changed = VALUES[values](arguments[name], dtype)
    check(OPERATIONS[op], cast(arguments | {name: changed}, dtype, device), length)
