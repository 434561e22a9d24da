"""The comparison of a result with its oracle, within the package's one table of tolerances."""

import torch

from pytriton_llama.tolerances import TOLERANCE


def assert_close(actual: torch.Tensor, oracle: torch.Tensor, size: torch.Tensor | None = None) -> None:
    """Each element within the tolerance of itself and of ``size``; NaN and infinities in the same places.

    ``size`` is how large the numbers were that were added up, since a sum may cancel and keep their rounding; by
    default that of the row's largest element.
    """
    assert actual.shape == oracle.shape, f"shape {tuple(actual.shape)}, oracle {tuple(oracle.shape)}"
    actual, tolerance = actual.cpu(), TOLERANCE[actual.dtype]
    oracle = oracle.cpu().to(torch.float64)
    finite = oracle.isfinite()
    torch.testing.assert_close(actual[~finite].double(), oracle[~finite], rtol=0, atol=0, equal_nan=True)
    known = torch.where(finite, oracle, 0.0).abs()
    if size is None:
        size = known.amax(-1, keepdim=True) if known.numel() else known
    bound = tolerance * (known + size.cpu().double())
    # Written so that a NaN in `actual` fails.
    wrong = finite & ~((actual.double() - oracle).abs() <= bound)
    if wrong.any():
        worst = torch.where(wrong, (actual.double() - oracle).abs(), 0.0).nan_to_num(float("inf")).argmax()
        where = tuple(int(i) for i in torch.unravel_index(worst, actual.shape))
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements are off; the worst, at {where}, is {actual[where]}, "
            f"not {oracle[where]}, with a bound of {bound[where]:.2g}"
        )


def error_bound(
    dtype: torch.dtype, oracle: torch.Tensor, size: torch.Tensor, rounded: torch.Tensor, terms: int
) -> torch.Tensor:
    """How far each element of a result may be from its oracle.

    The result is rounded once to ``dtype``, and so are numbers of size ``rounded`` on the way. The error of a float32
    sum grows like the root of the number of its terms (Higham and Mary, "A new approach to probabilistic rounding error
    analysis", 2019); ``size`` is that of its partial sums.
    """
    half_ulp, half_ulp_32 = torch.finfo(dtype).eps / 2, torch.finfo(torch.float32).eps / 2
    # What is too small to be a normal number has an absolute error; float32's may be flushed to zero.
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps + torch.finfo(torch.float32).tiny
    return half_ulp * (oracle.abs() + rounded) + 4 * terms**0.5 * half_ulp_32 * size + smallest


def assert_within(actual: torch.Tensor, oracle: torch.Tensor, native: torch.Tensor, bound: torch.Tensor) -> None:
    """Each element within ``bound`` of a float64 oracle; NaN and infinities where ``native`` has them, which is what
    torch makes of the same inputs in their own dtype. Where rounding alone decides whether a number is too large for
    the dtype, either will do."""
    assert actual.shape == oracle.shape == native.shape, f"shape {tuple(actual.shape)}, oracle {tuple(oracle.shape)}"
    assert actual.dtype == native.dtype, f"{actual.dtype}, oracle {native.dtype}"
    largest = torch.finfo(actual.dtype).max
    actual, oracle, native, bound = (t.cpu().double() for t in (actual, oracle, native, bound.expand_as(oracle)))
    same = (actual == native) | (actual.isnan() & native.isnan())
    same |= (oracle.abs() - bound <= largest) & (largest <= oracle.abs() + bound) & (actual.abs() >= largest / 2)
    special = ~native.isfinite() | actual.isinf()
    # Written so that a NaN in `actual` or in `bound` fails.
    wrong = torch.where(special, ~same, ~((actual - oracle).abs() <= bound))
    if wrong.any():
        where = tuple(int(i) for i in wrong.nonzero()[0])
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements are off; the first, at {where}, is {actual[where]}, not "
            f"{native[where]} or {oracle[where]}, with a bound of {bound[where]:.2g}"
        )
