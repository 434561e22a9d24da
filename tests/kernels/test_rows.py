"""What softmax, the norms and silu_mul share: rows of any layout, taken as they lie."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytriton_llama import interpreter, kernels, reference
from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import for_rows
from pytriton_llama.runtime import interpreted
from tests.tolerances import assert_close

# Longer than what an interpreted program takes as one block.
LONG = tiles.INTERPRETED_ROW + 20
# Each gives the same shape (..., N) as a view of something else.
LAYOUTS = {
    "contiguous": lambda randn: randn(6, 40),
    "transposed": lambda randn: randn(40, 6).t(),
    "every second column": lambda randn: randn(6, 80)[:, ::2],
    "part of a wider row": lambda randn: randn(6, 100)[:, 30:70],
    "one element off": lambda randn: randn(6 * 40 + 1)[1:].view(6, 40),
    "rows in reverse order of dimensions": lambda randn: randn(5, 4, 40).transpose(0, 1),
    "heads before positions": lambda randn: randn(2, 5, 3, 40).transpose(1, 2),
    "part of the middle": lambda randn: randn(3, 9, 40)[:, 2:7],
    "expanded rows": lambda randn: randn(1, 40).expand(6, 40),
    "expanded batch": lambda randn: randn(1, 5, 40).expand(4, 5, 40),
    "expanded columns": lambda randn: randn(6, 1).expand(6, 40),
    "a single column": lambda randn: randn(6, 40)[:, 3:4],
    "transposed and long": lambda randn: randn(1100, 5).t(),
    "odd rows": lambda randn: randn(7, 37),
    "part of a row longer than a block": lambda randn: randn(3, LONG + 60)[:, 20:-40],
}


def call(op: str, x: torch.Tensor, other: torch.Tensor, weight: torch.Tensor, module):
    arguments = {
        "softmax": (x,),
        "rms_norm": (x, weight),
        "add_rms_norm": (x, other, weight),
        "layer_norm": (x, weight, weight),
        "silu_mul": (x, other),
    }
    return getattr(module, op)(*arguments[op])


OPS = ("softmax", "rms_norm", "add_rms_norm", "layer_norm", "silu_mul")


class Copies(TorchDispatchMode):
    """What torch is asked to copy."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(word in func.name() for word in ("copy", "clone", "contiguous")):
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_layouts(op, layout, randn):
    """Catches a stride taken for 1 or for the row's length, rows written where others belong, and an input that is
    copied first, whatever it was laid out like."""
    if op == "layer_norm" and layout == "expanded columns":
        pytest.skip("a constant row deviates from its mean by rounding alone")
    x = LAYOUTS[layout](randn)
    other, weight = randn(*x.shape), randn(x.shape[-1])
    with Copies() as copies:
        result = call(op, x, other, weight, kernels)
    # (Triton's own interpreter copies every tensor to the CPU and back, whatever the wrapper does.)
    assert copies.seen == [] or (interpreted() and not interpreter.enabled())
    oracle = call(op, x.double(), other.double(), weight.double(), reference)
    for ours, expected in zip(*(r if isinstance(r, tuple) else (r,) for r in (result, oracle)), strict=True):
        assert_close(ours, expected)
        assert ours.is_contiguous() or not x.is_contiguous()


@pytest.mark.parametrize("N", [40, LONG])
@pytest.mark.parametrize("op", ["rms_norm", "add_rms_norm", "layer_norm", "silu_mul"])
def test_inputs_of_different_layouts(op, N, randn):
    """Catches the strides of one input used for the other, and a strided weight read as a contiguous one."""
    x, other, weight = randn(N, 3, 6).permute(1, 2, 0), randn(6, 3, N).transpose(0, 1), randn(N, 2)[:, 1]
    result = call(op, x, other, weight, kernels)
    oracle = call(op, x.double(), other.double(), weight.double(), reference)
    for ours, expected in zip(*(r if isinstance(r, tuple) else (r,) for r in (result, oracle)), strict=True):
        assert_close(ours, expected)


@pytest.mark.parametrize("N", [1, 3, 16, 511, 1000, 4097, 9000])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_alignment_divides(N, itemsize, device):
    """Catches a promise to the compiler that does not hold: it would load 16 bytes from where no 16 bytes start."""
    x = torch.empty(2, N, dtype={2: torch.float16, 4: torch.float32}[itemsize], device=device)
    for row_stride in (N, N + 1, N + 4, N + 8):
        _, tile = tiles.rows("rms_norm", 2, N, (row_stride, 1), x)
        assert N % tile["ALIGN"] == row_stride % tile["ALIGN"] == 0 and tile["ALIGN"] * itemsize <= 16
    assert tiles.rows("rms_norm", 2, N, (N, 2), x)[1]["ALIGN"] == 1


@pytest.mark.parametrize("N", [2**31 - 2**16, 2**31 - 1])
def test_rows_that_end_near_31_bits(N):
    """Catches a walk whose last step passes 2³¹, becomes negative and starts again, for ever."""
    x = torch.zeros(1).expand(1, N)
    with pytest.raises(ValueError, match=f"rows of {N} columns"):
        for_rows(lambda *_: pytest.fail("launched"), (x,), (x,))


def test_negative_bit(randn):
    """Catches memory that is read without its sign, which torch keeps apart from it."""
    negative = torch.view_as_complex(randn(6, 40, 2)).conj().imag
    with pytest.raises(ValueError, match="negative bit"):
        kernels.softmax(negative)
    assert_close(kernels.softmax(negative.resolve_neg()), reference.softmax(negative.double()))
