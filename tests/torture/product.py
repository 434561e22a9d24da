"""Of the product of dtypes with lengths, values and layouts: what runs at once, and what is left to ``make test-all``.

In the interpreter most of it is left. On a GPU, where it takes minutes, nothing is, and one length more is there.
"""

from collections.abc import Collection

import pytest
import torch

from pytriton_llama.runtime import interpreted

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LARGE = () if interpreted() else (40_001,)  # the GPU's own tiles walk along such rows
LENGTHS = (0, 1, 2, 3, 17, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097, *LARGE)
MIDDLING, LONG = 129, 1025  # of the latter, the interpreter's rows are walked along


def left(later: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] * (later and interpreted())


def dtypes(at_once: Collection[str]) -> list:
    """Every dtype, for a parameter that is indirect."""
    return [pytest.param(dtype, id=name, marks=left(name not in at_once)) for name, dtype in DTYPES.items()]


def dtypes_and_lengths() -> list:
    """One dtype has every length at once, the others two."""
    return [
        pytest.param(
            dtype, length, id=f"{name}-{length}", marks=left(name != "fp16" and length not in (MIDDLING, LONG))
        )
        for name, dtype in DTYPES.items()
        for length in LENGTHS
    ]
