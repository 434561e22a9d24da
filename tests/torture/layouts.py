"""Ways for a tensor to lie in memory. Each is told a contiguous tensor, and gives one of its shape and dtype whose
surroundings are NaN; only an expanded one has other numbers: copies of some of them."""

import torch


def surrounded(t: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Memory of that shape, NaN or the lowest integer."""
    return t.new_full(shape, float("nan") if t.is_floating_point() else torch.iinfo(t.dtype).min)


def transposed(t: torch.Tensor) -> torch.Tensor:
    return t.mT.contiguous().mT if t.dim() > 1 else strided(t)


def strided(t: torch.Tensor) -> torch.Tensor:
    """Every second element along the last dimension."""
    return surrounded(t, (*t.shape[:-1], 2 * t.shape[-1]))[..., ::2].copy_(t)


def offset_by_one(t: torch.Tensor) -> torch.Tensor:
    return surrounded(t, (t.numel() + 1,))[1:].view(t.shape).copy_(t)


def sliced(t: torch.Tensor) -> torch.Tensor:
    """A part of the middle, along every dimension."""
    middle = tuple(slice(1, n + 1) for n in t.shape)
    return surrounded(t, tuple(n + 3 for n in t.shape))[middle].copy_(t)


def first_dimensions_swapped(t: torch.Tensor) -> torch.Tensor:
    """Heads after positions, or sequences after heads."""
    return t.transpose(0, -2).contiguous().transpose(0, -2) if t.dim() > 2 else sliced(t)


def expanded_rows(t: torch.Tensor) -> torch.Tensor:
    return t[:1].expand(t.shape)


def expanded_columns(t: torch.Tensor) -> torch.Tensor:
    return t[..., :1].expand(t.shape)


LAYOUTS = {
    f.__name__.replace("_", " "): f
    for f in (
        transposed,
        strided,
        offset_by_one,
        sliced,
        first_dimensions_swapped,
        expanded_rows,
        expanded_columns,
    )
}
