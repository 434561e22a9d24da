"""Several unusual things at once: the other tests have one operand at a time so."""

import random

import pytest
import torch

from pytriton_llama.runtime import runs_bfloat16
from tests.torture.cases import OPERATIONS
from tests.torture.judge import check
from tests.torture.layouts import LAYOUTS
from tests.torture.operation import Operation, cast, draw, operands, put, tensors
from tests.torture.product import DTYPES
from tests.torture.values import OF_SCALES, PARTS, VALUES


def laid_out(operation: Operation, name: str, t: torch.Tensor, layout: str) -> torch.Tensor:
    """Or as it was, where it may not lie so, and where integers would become others: they say what is where."""
    if not t.numel() or not t.dim() or (layout.startswith("expanded") and not t.is_floating_point()):
        return t
    changed = LAYOUTS[layout](t)
    return changed if operation.accepts(name, changed) else t


@pytest.mark.parametrize("seed", range(400))
def test_at_random(seed, device):
    """Catches what needs two causes: a stride that only another's layout brings to light, NaN from an infinity in one
    operand and a rounding in another."""
    r = random.Random(seed)
    operation = OPERATIONS[r.choice(list(OPERATIONS))]
    length = r.randrange(operation.least, r.choice((40, 300, 1500)))
    dtype = r.choice(list(DTYPES.values()))
    if dtype is torch.bfloat16 and not runs_bfloat16(torch.device(device)):
        pytest.skip("no bfloat16 here")
    arguments = draw(operation, length)
    chosen = []
    for name in operands(operation, length) if operation.size else ():  # a token's choice is exact, or no test
        t = tensors(arguments)[name]
        if t.numel() and r.random() < 0.2:
            values = r.choice(OF_SCALES if name.endswith(PARTS) else list(VALUES))
            changed = VALUES[values](t, dtype if t.dtype == torch.float64 else t.dtype)
            arguments = put(arguments, name, changed)
            chosen.append((name, values))
    arguments = cast(arguments, dtype, device)
    for name, t in tensors(arguments).items():
        if r.random() < 0.4 and not name.startswith("cu_seqlens"):
            layout = r.choice(list(LAYOUTS))
            arguments = put(arguments, name, laid_out(operation, name, t, layout))
            chosen.append((name, layout))
    print(operation.function, dtype, length, *chosen)  # pytest shows it where the test fails
    check(operation, arguments, length)
