"""What a result must not depend on: how inputs lie, what lies around them and in the output, and neighbours."""

import pytest
import torch

from pytriton_llama import kernels
from pytriton_llama.runtime import interpreted
from tests.torture.cases import OPERATIONS
from tests.torture.judge import judge
from tests.torture.layouts import LAYOUTS
from tests.torture.operation import Operation, cast, draw, put, tensors
from tests.torture.product import dtypes

LENGTH = 65
TENSORS = [(op, name, t) for op in OPERATIONS for name, t in tensors(draw(OPERATIONS[op], LENGTH)).items()]
FLOATING = [(op, name) for op, name, t in TENSORS if t.is_floating_point()]


def same(results: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(*(t.nan_to_num(nan=1e4) for t in pair)) for pair in zip(results, expected, strict=True))


def drawn(op: str, dtype: torch.dtype, device: str, length: int = LENGTH) -> tuple[Operation, dict]:
    return OPERATIONS[op], cast(draw(OPERATIONS[op], length), dtype, device)


@pytest.mark.parametrize("dtype", dtypes(("fp16",)), indirect=True)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("op", "name"), [each[:2] for each in TENSORS])
def test_layouts(op, name, layout, dtype, device):
    """Catches a stride taken for another, what lies around a tensor taken for a part of it, and a layout that is
    neither read right nor refused."""
    operation, arguments = drawn(op, dtype, device)
    laid_out = LAYOUTS[layout](tensors(arguments)[name])
    if not operation.accepts(name, laid_out):
        with pytest.raises(ValueError, match=r"contiguous|last stride of 1|expanded"):
            operation.run(kernels, put(arguments, name, laid_out), in_place=True)
        return
    contiguous = put(arguments, name, laid_out.contiguous())
    expected = operation.run(kernels, contiguous)
    around = laid_out._base if laid_out._base is not None else laid_out
    inside = torch.zeros_like(around, dtype=torch.bool)
    inside.as_strided(laid_out.shape, laid_out.stride(), laid_out.storage_offset()).fill_(True)
    before = around.clone()
    results = operation.run(kernels, put(arguments, name, laid_out), in_place=True)
    # A GPU has other kernels and tiles for some layouts, which round otherwise; not for offsets of sequences, of which
    # an expanded tensor is none: what it leaves unwritten has no oracle.
    if interpreted() or operation.size is None or name.startswith("cu_seqlens"):
        assert same(results, expected)
    else:
        judge(operation, contiguous, results, LENGTH)
    untouched = ~inside if name in operation.written else torch.ones_like(inside)
    assert same([around[untouched]], [before[untouched]])


@pytest.mark.parametrize(("op", "name"), FLOATING)
def test_gradients(op, name, device):
    """Catches a result without a graph where its caller expects one, and a refusal under no_grad."""
    operation, arguments = drawn(op, torch.float32, device)
    expected = operation.run(kernels, arguments)
    tensors(arguments)[name].requires_grad_()
    with pytest.raises(ValueError, match="forward only"):
        operation.run(kernels, arguments)
    with torch.no_grad():
        results = operation.run(kernels, arguments)
    assert same(results, expected) and not any(t.requires_grad for t in results)


@pytest.mark.parametrize("dtype", dtypes(("fp32",)), indirect=True)
@pytest.mark.parametrize("op", OPERATIONS)
def test_repeats(op, dtype, device):
    """Catches sums in the order in which programs happen to finish, a counter that is not put back, and a result, or
    what is kept between two kernels, that has some of what lay in memory before."""
    operation, arguments = drawn(op, dtype, device)
    expected = operation.run(kernels, arguments)
    torch.use_deterministic_algorithms(False)  # until now memory was NaN; from now on it is what others left
    for _ in range(3):
        left = torch.full((1 << 16,), 3.0, device=device)
        del left
        assert same(operation.run(kernels, arguments), expected)


@pytest.mark.parametrize("dtype", dtypes(("fp16",)), indirect=True)
@pytest.mark.parametrize("neighbour", [0.0, float("nan"), float("inf"), -65504.0])
@pytest.mark.parametrize("op", [op for op in OPERATIONS if OPERATIONS[op].first])
def test_neighbours(op, neighbour, dtype, device):
    """Catches a maximum or a sum over a program's whole tile, and 0 · NaN in a row that has none: with any numbers in
    the other sequences, the first one's results are the same bit for bit."""
    operation, arguments = drawn(op, dtype, device)
    expected = operation.run(kernels, arguments)
    for name, rows in operation.first.items():
        if name in arguments:
            arguments[name][rows:] = neighbour
    results = operation.run(kernels, arguments)
    first = next(iter(operation.first.values()))
    of_first = [[t[:first] for t in ts if t.dim() and t.is_floating_point()] for ts in (results, expected)]
    assert same(*of_first)
