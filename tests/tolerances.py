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


def assert_within(
    actual: torch.Tensor, oracle: torch.Tensor, torchs: tuple[torch.Tensor, ...], bound: torch.Tensor
) -> None:
    """Each element within ``bound`` of a float64 oracle, or the NaN or infinity that one of ``torchs`` has there: what
    torch makes of the same inputs in their own dtype, and of float32 ones. Where rounding alone decides whether a
    number is too large for the dtype, either will do."""
    assert actual.shape == oracle.shape, f"shape {tuple(actual.shape)}, oracle {tuple(oracle.shape)}"
    largest = torch.finfo(actual.dtype).max
    actual, oracle, bound, *torchs = (t.cpu().double() for t in (actual, oracle, bound.expand_as(oracle), *torchs))
    either = (oracle.abs() - largest).abs() <= bound
    right, finite = (actual.abs() >= largest / 2) & either, either.clone()
    for one in torchs:
        right |= ~one.isfinite() & ((actual == one) | (actual.isnan() & one.isnan()))
        finite |= one.isfinite()
    # Written so that a NaN in `actual` or in `bound` fails.
    wrong = ~(right | (finite & actual.isfinite() & ((actual - oracle).abs() <= bound)))
    if wrong.any():
        where = tuple(int(i) for i in wrong.nonzero()[0])
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements are off; the first, at {where}, is {actual[where]}, not "
            f"{oracle[where]} (torch: {[float(one[where]) for one in torchs]}), with a bound of {bound[where]:.2g}"
        )
