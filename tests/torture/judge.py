"""The comparison of an operation's results with what float64 makes of the same numbers."""

import torch

from pytriton_llama import kernels, reference
from tests.tolerances import assert_within, error_bound
from tests.torture.operation import Operation, in_dtype


def check(operation: Operation, arguments: dict, length: int) -> None:
    judge(operation, arguments, operation.run(kernels, arguments), length)


def judge(operation: Operation, arguments: dict, results: list[torch.Tensor], length: int) -> None:
    """What these arguments gave: within what rounding may do to it; exact results to the bit."""
    native = operation.run(reference, arguments)
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
        for one in torchs if operation.apart else ():
            result = torch.where(result.isnan() & one.isinf(), one, result)
        bound = error_bound(result.dtype, oracle, size.to(oracle), rounded.to(oracle), operation.terms(length))
        assert_within(result, oracle, torchs, bound)
