"""Bytes are counted to the byte, and what only watching can see is seen."""

import pytest
import torch

from pytriton_llama.course import Traffic, check, device, draw, traffic, watch
from tests.course import kernels
from tests.course.kernels import scale, with_kernel


@pytest.mark.parametrize(("dtype", "itemsize"), [(torch.float32, 4), (torch.float16, 2)], ids=str)
def test_kernel_and_tiles_move_the_same(dtype, itemsize):
    """Catches masked-off lanes that are counted, elements taken for bytes, loads taken for stores."""
    x, counted = draw(70, dtype=dtype), Traffic()
    y = torch.empty_like(x)
    for start in range(0, 70, 32):
        y[start : start + 32] = counted.store(2 * counted.load(x[start : start + 32]))
    assert torch.equal(y, scale(x))
    assert counted == Traffic(loaded=70 * itemsize, stored=70 * itemsize) == traffic(scale, x)
    assert traffic(lambda x: [scale(x), scale(x)], x).total == 2 * counted.total
    assert str(traffic(scale, draw(1000))) == "4,000 bytes loaded, 4,000 bytes stored"


FAULTS = {
    "an access outside of a tensor": kernels.unmasked_kernel,
    "a race: the result depends on which program runs first": kernels.racing_kernel,
    "a load of memory that nobody has written": kernels.blind_kernel,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault, capsys):
    """Catches a watch that is blind to a fault, or that prints line numbers and offsets where they are compared."""
    verdict = watch(with_kernel(FAULTS[fault]), draw(70))
    assert not verdict
    assert capsys.readouterr().out == f"caught: {fault}\n"
    verdict.details()
    assert "kernels.py:" in capsys.readouterr().out


def test_a_view_ends_where_it_ends(capsys):
    """Catches an overrun forgiven because the allocation goes on (that is how notebooks plant one), and guards that the
    watched kernel overwrites; results and bounds are different questions."""
    memory = torch.full((2, 96), -1.0, device=device)
    memory[0, :70] = draw(70)
    x, y = memory[:, :70]

    def unmasked(x):
        kernels.unmasked_kernel[(3,)](y, x, 70, 32)
        return y

    assert not watch(unmasked, x)
    assert (memory[1, 70:] == -1).all()
    assert check(unmasked, lambda x: 2 * x, x)
    assert watch(scale, x)


def test_other_errors_get_out():
    """Catches an author's own mistake reported as the kernel's."""
    with pytest.raises(ZeroDivisionError):
        watch(lambda: 1 / 0)
