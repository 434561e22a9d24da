"""Values that break kernels: each class makes of normal numbers, drawn in float64, numbers of its own."""

from collections.abc import Callable

import torch

INF, NAN = float("inf"), float("nan")


def one(value: float) -> Callable:
    """A single element in the middle of the first matrix: of the attention's keys one that every query sees."""

    def put(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        t = t.clone()
        first = t.view(-1, *t.shape[-2:])[0]
        first[tuple(n // 2 for n in first.shape)] = value
        return t

    return put


def masked(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """−inf at two elements of three, from the first on: a walk along a row begins with nothing but them."""
    return torch.where(torch.arange(t.shape[-1]) < t.shape[-1] * 2 // 3, -INF, t)


VALUES: dict[str, Callable[[torch.Tensor, torch.dtype], torch.Tensor]] = {
    "all equal": lambda t, dtype: torch.full_like(t, 0.7),
    "all -200": lambda t, dtype: torch.full_like(t, -200.0),
    "+-65504": lambda t, dtype: 65504 * t.sign(),
    "denormal": lambda t, dtype: t * torch.finfo(dtype).tiny / 4,
    "1e-30": lambda t, dtype: t * 1e-30,
    "huge and tiny": lambda t, dtype: t * torch.where(torch.arange(t.shape[-1]) % 2 == 0, 1e4, 1e-7),
    "one inf": one(INF),
    "one -inf": one(-INF),
    "one NaN": one(NAN),
    "-inf masks": masked,
    "all -inf": lambda t, dtype: torch.full_like(t, -INF),
}
# A packed weight's numbers, of which 0 · inf would be one, are finite; 65504 is no scale: 8 of them pass any float16.
PARTS = (".scales", ".minima")
OF_SCALES = ("all equal", "all -200", "denormal", "1e-30", "one NaN")
