"""Verdicts: right results pass, each wrong one is called by its name, and nothing printed depends on the machine."""

import sys

import pytest
import torch

from pytriton_llama import tolerances
from pytriton_llama.course import check, device, draw, traffic, watch
from pytriton_llama.course.check import difference
from pytriton_llama.course.inputs import Draw
from pytriton_llama.kernels import softmax
from tests.course.kernels import scale


def twice(x):
    return 2 * x


def test_agreement(capsys):
    """Catches a bound without float32's rounding, an oracle that is given its inputs in 16 bits, and a lost name."""
    inputs = {"one": draw(1), "fp16": draw(3, 100, dtype=torch.float16), "empty": draw(0), "pair": (draw(70),)}
    assert check(scale, twice, inputs)
    assert capsys.readouterr().out == "one    agrees\nfp16   agrees\nempty  agrees\npair   agrees\n"


WRONG = {
    "NaN where the oracle has none": lambda x: torch.empty_like(x),  # poisoned: nobody wrote to it
    "infinite where the oracle is not": lambda x: 2 * x / 0,
    "wrong numbers": lambda x: 2.001 * x,
    "a result of shape (6,), not (2, 3)": lambda x: 2 * x.flatten(),
    "2 results, not 1": lambda x: (2 * x, x),
    "a result of type NoneType, not a tensor": lambda x: None,
    "raises RuntimeError": lambda x: x @ x,
}


@pytest.mark.parametrize("reason", WRONG)
def test_wrong_results(reason, capsys):
    """Catches a comparison that NaN passes, one that broadcasts shapes, and a reader's exception that gets out."""
    x = draw(2, 3).abs() + 1
    assert not check(WRONG[reason], twice, {"here": x, "there": x})
    assert capsys.readouterr().out == f"here   caught: {reason}\nthere  caught: {reason}\n"


def test_one_wrong_input_is_enough():
    """Catches a table that is good if any of its lines is."""
    assert not check(lambda x: 2 * x if len(x) == 1 else x, twice, {"right": draw(1), "wrong": draw(3)})


def test_nan_and_infinity_have_their_places():
    """Catches NaN taken for equal to anything, infinities compared by subtraction (∞ − ∞ is NaN), and a bound that is
    infinite, or NaN, for all of their row."""
    inf, nan = float("inf"), float("nan")
    expected = torch.tensor([inf, -inf, nan, 1.0])
    assert difference(expected.clone(), expected) is None
    assert difference(torch.tensor([inf, inf, nan, 1.0]), expected)[0] == "wrong numbers"
    for row in ([inf, 1.0], [nan, 1.0]):
        assert difference(torch.tensor(row) + torch.tensor([0.0, 1.0]), torch.tensor(row))[0] == "wrong numbers"
    assert difference(torch.tensor([inf, -inf, nan, -inf]), expected)[0] == "infinite where the oracle is not"
    assert difference(torch.tensor([inf, -inf, 0.0, 1.0]), expected)[0] == "no NaN where the oracle has one"


def test_integers_are_equal_or_not():
    """Catches token ids compared by a tolerance, and an index of another width called wrong."""
    expected = torch.tensor([10**6, 3])
    assert difference(expected.int(), expected) is None
    assert difference(expected + torch.tensor([1, 0]), expected) == ("other integers", "")


def test_bfloat16_is_not_run_where_it_cannot_be(capsys, monkeypatch):
    """Catches a verdict on what the stock interpreter, or a GPU before sm_80, makes of bfloat16."""
    monkeypatch.setattr(sys.modules["pytriton_llama.course.check"], "runs_bfloat16", lambda device: False)
    assert check(lambda x: 2 * x, twice, {"bf16": draw(3, dtype=torch.bfloat16), "fp16": draw(3, dtype=torch.float16)})
    assert capsys.readouterr().out == "bf16  not run here\nfp16  agrees\n"


@pytest.mark.parametrize("dtype", tolerances.TOLERANCE, ids=str)
def test_tolerance_is_the_tables(dtype):
    """Catches a bound that is not the result's own dtype's, or one relative to the whole tensor's largest element."""
    expected = torch.tensor([[1.0, 1.0], [1e4, 1e4]], dtype=torch.float64)
    for factor, ok in ((0.9, True), (1.5, False)):
        # Twice the tolerance: of the element, and of its row's largest.
        off = torch.tensor([[2 * factor * tolerances.TOLERANCE[dtype], 0.0], [0.0, 0.0]], dtype=torch.float64)
        actual = (expected + off).to(dtype)
        assert (difference(actual, expected) is None) == ok


def test_details_are_kept_apart(capsys):
    """Catches indices and errors in what is compared, and details that don't say where."""
    verdicts = check(lambda x: torch.cat([2 * x[:3], x[3:]]), twice, draw(5).abs() + 1)
    assert capsys.readouterr().out == "caught: wrong numbers\n"
    verdicts.details()
    assert "2 of 5 elements, the first at (3,)" in capsys.readouterr().out


@pytest.mark.parametrize("call", [watch, traffic, lambda f, case: check(f, twice, case)])
def test_arguments_as_one_tuple(call):
    """Catches a forgotten * that is told as a missing argument of somebody's lambda."""
    with pytest.raises(TypeError, match=r"^2 arguments came as one tuple: put \* before it$"):
        call(twice, (draw(3), draw(3)))


def test_the_oracle_is_exact():
    """Catches an oracle that is given its inputs in 16 or 32 bits, where it rounds as ours does, and token ids or
    lengths that come to it as floating-point numbers."""
    seen = []
    x, ids = draw(3, dtype=torch.float16), torch.arange(3, device=device)
    assert check(lambda x, ids: 2 * x, lambda *given: [seen.extend(t.dtype for t in given), 2 * given[0]][1], x, ids)
    assert seen == [torch.float64, torch.int64]


def test_inputs_that_require_grad():
    """Catches a model's own weights refused, for kernels are forward only."""
    assert check(softmax, lambda x: x.softmax(-1), draw(2, 5).requires_grad_())


def test_inputs_keep_their_layout():
    """Catches inputs that are copied before the call: a kernel that ignores strides would pass."""
    seen = []
    x = draw(4, 6).T
    check(lambda x: [seen.append(x.stride()), 2 * x][1], twice, x)
    assert seen == [(1, 6)]


def test_draw_is_the_same_everywhere():
    """Catches a device's own generator, and two tensors of one call after the other with the same numbers."""
    first, second = Draw(3), Draw(3)
    a, b = first(4), first(4)
    assert torch.equal(a, second(4)) and not torch.equal(a, b) and a.device.type == device.type
    assert torch.equal(a.cpu(), torch.randn(4, generator=torch.Generator().manual_seed(3)))
