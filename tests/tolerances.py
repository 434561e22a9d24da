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
