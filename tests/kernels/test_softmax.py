import pytest
import torch

from pytriton_llama import reference
from pytriton_llama.kernels import softmax, tiles
from tests.tolerances import assert_close


@pytest.mark.parametrize("shape", [(1, 1), (3, 127), (5, 128), (2, 3, 129), (70, 1000)], ids=str)
def test_rows(shape, dtype, randn):
    """Catches a missing column mask (lengths off a power of two) and a missing row mask (70 rows)."""
    x = randn(*shape, dtype=dtype, scale=4)
    assert_close(softmax(x), reference.softmax(x.double()))


@pytest.mark.parametrize("dim", [0, 1, 2, -2])
def test_any_dimension(dim, randn):
    """Catches a kernel that reads x as if it were contiguous, and results returned in the moved layout."""
    x = randn(4, 33, 6).transpose(0, 2)
    assert_close(softmax(x, dim).contiguous(), torch.softmax(x.double(), dim))


@pytest.mark.parametrize("columns", [tiles.INTERPRETED_ROW + 1, 70_001])
def test_rows_longer_than_a_block(columns, randn):
    """Catches an online softmax whose maximum starts at 0 (row 0 is negative throughout), that turns −inf − (−inf)
    into NaN (row 1 begins with a block of −inf), or that does not rescale when the maximum grows (row 2)."""
    x = randn(4, columns)
    x[0] -= 200
    x[1, : columns // 2] = float("-inf")
    x[2] += torch.linspace(0, 50, columns, device=x.device)
    assert_close(softmax(x), reference.softmax(x.double()))


@pytest.mark.parametrize("columns", [100, tiles.INTERPRETED_ROW + 1])
def test_extremes(columns, randn):
    """Catches exp without the maximum taken off (±1e4), NaN for a row of −200, 0 for a row of −inf (torch: NaN)."""
    x = randn(5, columns) * 1e4
    x[1] = -200
    x[2] = float("-inf")
    x[3, 7] = float("nan")
    x[4, 7] = float("inf")
    assert_close(softmax(x), torch.softmax(x.double(), -1))


def test_neighbours_do_not_matter(randn):
    """Catches a maximum or a sum taken over a program's whole tile instead of a row."""
    x = randn(9, 40)
    together = softmax(x)
    for i in range(9):
        assert torch.equal(softmax(x[i : i + 1])[0], together[i])


def test_empty_and_scalar(randn):
    """Catches a launch with an empty grid, or a division by zero rows."""
    assert softmax(randn(0, 5)).shape == (0, 5)
    assert softmax(randn(5, 0)).shape == (5, 0)
    assert softmax(randn(3)[0]).item() == 1


def test_bad_arguments_are_named(randn):
    """Catches an error from deep inside Triton where one line would do."""
    with pytest.raises(ValueError, match="dim is 2"):
        softmax(randn(3, 4), 2)
    with pytest.raises(TypeError, match="float64"):
        softmax(randn(3, 4).double())
    with pytest.raises(ValueError, match="forward only"):
        softmax(randn(3, 4).requires_grad_())
    with torch.no_grad():
        softmax(randn(3, 4).requires_grad_())
