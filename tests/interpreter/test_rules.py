"""What the compiler refuses is refused."""

import inspect

import pytest
import torch
import triton
import triton.language as tl
from triton.compiler.errors import UnsupportedLanguageConstruct
from triton.runtime.errors import InterpreterError


@triton.jit
def breaks(x, n):
    for k in range(n):
        if k > 2:
            break  # here
        tl.store(x + k, k)


@triton.jit
def helper(x, n):
    k = 0
    while k < n:
        k += 1
        if k == 3:
            continue  # here
        tl.store(x + k, k)


@triton.jit
def calls(x, n):
    helper(x, n)


@pytest.mark.parametrize("kernel, culprit, word", [(breaks, breaks, "break"), (calls, helper, "continue")])
def test_statements_that_triton_lacks(kernel, culprit, word):
    """Catches `break` that works in Python; the message has the line, also of a helper."""
    lines, first = inspect.getsourcelines(culprit.fn)
    (line,) = [first + i for i, text in enumerate(lines) if "# here" in text]
    with pytest.raises(UnsupportedLanguageConstruct, match=f"test_rules.py:{line}: Triton has no '{word}'"):
        kernel[(1,)](torch.zeros(8), 8)


@triton.jit
def copy(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.load(x + i))


def test_unknown_launch_keyword():
    """Catches a misspelt option that is dropped in silence; real ones pass."""
    x, y = torch.ones(16), torch.zeros(16)
    with pytest.raises(KeyError, match="Keyword argument num_warp was specified but unrecognised"):
        copy[(1,)](x, y, 16, num_warp=4)
    options = dict(num_warps=4, num_stages=3, num_ctas=1, maxnreg=64, enable_fp_fusion=True, launch_pdl=False)
    copy[(1,)](x, y, B=16, launch_cooperative_grid=False, debug=False, **options)
    assert y.sum() == 16


@pytest.mark.parametrize("args, message", [((1, 2), "missing"), ((1, 2, 3, 4), "too many"), ((1, 2, 3), "multiple")])
def test_wrong_number_of_arguments(args, message):
    """Catches a binder that fills gaps, or drops what is too much."""
    with pytest.raises(TypeError, match=message):
        copy[(1,)](*args, **({"B": 16} if message == "multiple" else {}))


@triton.jit
def odd_range(x, B: tl.constexpr):
    tl.store(x + tl.arange(0, B), 1.0)


@triton.jit
def odd_block(x, B: tl.constexpr):
    tl.store(x + tl.arange(0, 4)[:, None], tl.sum(tl.zeros((4, B), tl.float32), 1, keep_dims=True))


@triton.jit
def multiplies(a, b, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a + m[:, None] * K + k[None, :])
    y = tl.load(b + k[:, None] * N + n[None, :])
    tl.store(a + m[:, None] * N + n[None, :], tl.dot(x, y).to(a.dtype.element_ty))


@pytest.mark.parametrize("kernel", [odd_range, odd_block])
def test_block_shapes_are_powers_of_two(kernel):
    """Catches a cache of shapes that skips the check, the second time as well."""
    for _ in range(2):
        with pytest.raises(InterpreterError, match="power of 2"):
            kernel[(1,)](torch.zeros(64), 12)


@pytest.mark.parametrize("dtype, k", [(torch.float32, 16), (torch.float16, 16), (torch.int8, 32)])
def test_dot_smaller_than_the_hardware_takes(dtype, k):
    """Catches a K that the compiler refuses; it pads M and N itself. (Triton 3.9 takes float32 from K = 8.)"""
    a, b = torch.zeros(1024, dtype=dtype), torch.zeros(1024, dtype=dtype)
    with pytest.raises(InterpreterError, match="K >= "):
        multiplies[(1,)](a, b, 16, 16, k // 4)
    multiplies[(1,)](a, b, 16, 16, k)
    multiplies[(1,)](a, b, 1, 2, k)


def test_a_block_of_more_than_a_million_elements():
    """Catches a limit of the compiler that is lost with the check of shapes."""
    with pytest.raises(InterpreterError, match="exceeds triton maximum tensor numel"):
        odd_range[(1,)](torch.zeros(1 << 21), 1 << 21)


def test_errors_of_python_name_the_cause():
    """Catches an error that loses its message on the way out."""

    @triton.jit
    def mixes(x):
        tl.store(x, tl.load(x) + x)

    with pytest.raises(InterpreterError, match="IncompatibleTypeErrorImpl"):
        mixes[(1,)](torch.zeros(4))
