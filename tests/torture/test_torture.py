"""Every public operation, with every length, value and layout that breaks kernels, against float64.

On the interpreter one thing at a time is unusual; on a GPU everything is at once, at larger sizes.
"""

from itertools import product

import pytest
import torch

from pytriton_llama import kernels, reference
from pytriton_llama.runtime import interpreted
from tests.tolerances import assert_within, error_bound
from tests.torture.cases import OPERATIONS, Operation, cast, wide
from tests.torture.layouts import LAYOUTS
from tests.torture.values import VALUES

LENGTHS = (0, 1, 2, 3, 17, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097)
MIDDLING, LONG = 129, 1025


@pytest.fixture(params=OPERATIONS.values(), ids=OPERATIONS)
def operation(request) -> Operation:
    return request.param


def drawn(operation: Operation, length: int) -> dict:
    generator = torch.Generator().manual_seed(1337 + length)
    return operation.draw(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64), length)


def operands(arguments: dict) -> list[str]:
    """Those that are drawn: the others keep their values."""
    return [n for n, a in arguments.items() if isinstance(a, torch.Tensor) and a.dtype == torch.float64]


def check(operation: Operation, arguments: dict, length: int) -> None:
    results, native = operation.run(kernels, arguments), operation.run(reference, arguments)
    if operation.size is None:
        for result, expected in zip(results, native, strict=True):
            torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
        return
    oracles, sizes = operation.run(reference, wide(arguments)), operation.size(*wide(arguments).values())
    for result, expected, oracle, (size, rounded) in zip(results, native, oracles, sizes, strict=True):
        bound = error_bound(result.dtype, oracle, size.to(oracle), rounded.to(oracle), operation.terms(length))
        assert_within(result, oracle, expected, bound)


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(operation, length, dtype, device):
    """Catches a mask left out or off by one, a last block forgotten or done twice, a division by a length of 0."""
    arguments = cast(drawn(operation, length), dtype, device)
    if length < operation.least:
        with pytest.raises(ValueError, match=r"must|needed|empty"):
            operation.run(kernels, arguments)
        return
    check(operation, arguments, length)


@pytest.mark.parametrize("length", [MIDDLING, LONG])
@pytest.mark.parametrize("values", VALUES)
def test_values(operation, values, length, dtype, device):
    """Catches squares or products formed in 16 bits, exp without its maximum taken off, denormals flushed to zero, NaN
    hidden or spread, −inf − (−inf)."""
    drawn_arguments = drawn(operation, length)
    for name in operands(drawn_arguments):
        if name in operation.written:
            continue
        changed = VALUES[values](drawn_arguments[name], dtype)
        check(operation, cast(drawn_arguments | {name: changed}, dtype, device), length)
