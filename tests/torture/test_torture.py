"""Every public operation, with every length, value and layout that breaks kernels, against float64.

In the interpreter one thing at a time is unusual. The slow tests have the product of values and lengths.
"""

from itertools import product

import pytest
import torch

from pytriton_llama import kernels, reference
from pytriton_llama.runtime import interpreted
from tests.torture.cases import OPERATIONS
from tests.torture.judge import check
from tests.torture.operation import Operation, cast, draw, operands, put, tensors
from tests.torture.product import DTYPES, LONG, MIDDLING, dtypes_and_lengths, left
from tests.torture.values import OF_SCALES, PARTS, VALUES

# Every operand of every operation.
OPERANDS = [(op, name) for op in OPERATIONS for name in operands(OPERATIONS[op], MIDDLING)]


@pytest.fixture(params=OPERATIONS.values(), ids=OPERATIONS)
def operation(request) -> Operation:
    return request.param


@pytest.mark.parametrize(("dtype", "length"), dtypes_and_lengths(), indirect=["dtype"])
def test_lengths(operation, length, dtype, device):
    """Catches a mask left out or off by one, a last block forgotten or done twice, a division by a length of 0."""
    arguments = cast(draw(operation, length), dtype, device)
    if length < operation.least:
        with pytest.raises(ValueError, match=r"must|needed|empty"):
            operation.run(kernels, arguments)
        return
    check(operation, arguments, length)


def with_values() -> list:
    """(operation, operand, values, dtype, length): the product."""
    cases = []
    for op, name in OPERANDS:
        for values in OF_SCALES if name.endswith(PARTS) else VALUES:
            for dtype, length in product(DTYPES, (MIDDLING, LONG)):
                # A packed weight's rows are as long at any length.
                wide = ("fp32", MIDDLING if op.startswith("quantized") else LONG)
                if interpreted() and (dtype, length) not in (("fp16", MIDDLING), wide, ("bf16", LONG)):
                    continue
                later = dtype == "bf16"
                of_case = f"{op}-{name}-{values}-{dtype}-{length}"
                cases.append(pytest.param(op, name, values, DTYPES[dtype], length, marks=left(later), id=of_case))
    return cases


@pytest.mark.parametrize(("op", "name", "values", "dtype", "length"), with_values(), indirect=["dtype"])
def test_values(op, name, values, length, dtype, device):
    """Catches squares or products formed in 16 bits, exp without its maximum taken off, denormals flushed to zero, NaN
    hidden or spread, −inf − (−inf). One operand at a time has them."""
    arguments = draw(OPERATIONS[op], length)
    t = tensors(arguments)[name]
    changed = VALUES[values](t, dtype if t.dtype == torch.float64 else t.dtype)
    check(OPERATIONS[op], cast(put(arguments, name, changed), dtype, device), length)


def test_oracle_keeps_nan():
    """Catches an oracle that hides what the others are there to find."""
    q, k = torch.full((1, 1, 2, 16), torch.nan), torch.zeros(1, 1, 1, 16)
    first, second = reference.flash_attention(q, k, k, causal=True)[0, 0]
    assert not first.any() and second.isnan().all()
