"""Weights to 8 or 4 bits, without data: round to nearest, in ranges that make a group's squared error small.

The largest weight of a group sets the range of its 2^bits values, and few weights come near it. A smaller range leaves
a few weights outside and brings all others nearer to a value: several are tried. For the q so found, the scale (and
minimum) of least squares has a closed form; then weights are rounded again, and so on, as in Lloyd's algorithm
(Least squares quantization in PCM, 1982).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pytriton_llama.errors import LlamaError
from pytriton_llama.kernels.quantized_weight import QuantizedWeight, join, pack
from pytriton_llama.llama import checkpoint, shards
from pytriton_llama.llama.config import LlamaConfig, read_json
from pytriton_llama.llama.entry import telling_damage
from pytriton_llama.llama.scheme import KEY, Scheme, group_sizes

_WEIGHTS = 1 << 20  # at a time: what lies in a processor's cache
_SHARES = (1.14, 1.05, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)  # of a group's range
_ROUNDS = 3
_COPIED = ("generation_config.json", "tokenizer*", "special_tokens_map.json", "*.jinja")


def quantize(
    weight: torch.Tensor, bits: int, group_size: int, minima: bool = False, clip: bool = True
) -> QuantizedWeight:
    """A floating-point weight (N, K) in ``bits`` bits, ``group_size`` weights of a row to a scale; see the module.

    Without ``clip``, the range of a group is that of its weights. With it, no group's squared error is larger than
    without. Errors are those of the scales as they are stored, float16.

    Raises:
        ValueError: as ``quantized_weight.pack``; rows do not consist of groups.
        LlamaError: scales, or minima, of weights so large are beyond float16.
    """
    if weight.shape[1] % group_size:
        raise ValueError(f"quantize: rows of {weight.shape[1]} weights do not consist of groups of {group_size}")
    parts = weight.split(_rows(weight))
    return join([_quantize(part.float(), bits, group_size, minima, clip) for part in parts])


def _rows(weight: torch.Tensor) -> int:
    """How many to take at a time."""
    return max(1, _WEIGHTS // weight.shape[1])


def _quantize(weight: torch.Tensor, bits: int, group_size: int, minima: bool, clip: bool) -> QuantizedWeight:
    groups = weight.unflatten(1, (-1, group_size))
    fit = _Fit(groups, bits, minima)
    if clip:
        for share in _SHARES:
            fit.offer(*fit.range(share))
        for _ in range(_ROUNDS):
            fit.offer(*fit.least_squares())
    scales, low = fit.scales[..., 0], fit.low[..., 0]
    if not (scales.isfinite() & low.isfinite()).all():
        raise LlamaError(f"weights up to {weight.abs().max():.3g} need scales beyond float16")
    q = fit.rounded().to(torch.uint8).flatten(1)
    return QuantizedWeight(pack(q, bits), scales.half(), low.half() if minima else None, bits, group_size)


class _Fit:
    """The best scales so far of groups (N, G, group_size), and ``low``: what q = 0 stands for; both (N, G, 1)."""

    def __init__(self, groups: torch.Tensor, bits: int, minima: bool) -> None:
        self.groups, self.minima = groups, minima
        self.half, self.most = 2 ** (bits - 1), 2**bits - 1
        self.scales, self.low = self.stored(*self.range(1.0))
        self.errors = self.measured(self.scales, self.low)

    def range(self, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and low ends of a share of each group's range."""
        lowest, highest = self.groups.aminmax(dim=-1, keepdim=True)
        if self.minima:
            width = (highest - lowest) * share
            return width / self.most, (highest + lowest - width) / 2
        # There is one value more on one side of 0: the sign of the scale gives it to the largest weight.
        extreme = torch.where(highest > -lowest, highest, lowest)
        scales = extreme * (-share / self.half)
        return scales, -self.half * scales

    def least_squares(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Those that the present q suit best; where all are one value, of which no line can be drawn, the present."""
        q = self.rounded()
        if self.minima:
            q_mean, mean = q.mean(-1, keepdim=True), self.groups.mean(-1, keepdim=True)
            centred = q - q_mean
            scales = (centred * self.groups).sum(-1, keepdim=True) / centred.square().sum(-1, keepdim=True)
            scales = torch.where(scales.isfinite(), scales, self.scales)
            return scales, mean - scales * q_mean
        q -= self.half
        scales = (q * self.groups).sum(-1, keepdim=True) / q.square().sum(-1, keepdim=True)
        scales = torch.where(scales.isfinite(), scales, self.scales)
        return scales, -self.half * scales

    def offer(self, scales: torch.Tensor, low: torch.Tensor) -> None:
        """Take them in the groups where they are better."""
        scales, low = self.stored(scales, low)
        errors = self.measured(scales, low)
        better = errors < self.errors
        for name, values in {"scales": scales, "low": low, "errors": errors}.items():
            setattr(self, name, torch.where(better, values, getattr(self, name)))

    def stored(self, scales: torch.Tensor, low: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What float16 makes of them."""
        scales = scales.half().float()
        return scales, low.half().float() if self.minima else -self.half * scales

    def measured(self, scales: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        q = self.rounded(scales, low)
        return q.mul_(scales).add_(low).sub_(self.groups).square_().sum(-1, keepdim=True)

    def rounded(self, scales: torch.Tensor | None = None, low: torch.Tensor | None = None) -> torch.Tensor:
        """float32, whole numbers: the nearest q."""
        scales, low = self.scales if scales is None else scales, self.low if low is None else low
        inverse = torch.where(scales == 0, 0.0, 1 / scales)  # a scale of 0: any q stands for the same
        return (self.groups - low).mul_(inverse).round_().clamp_(0, self.most)


def quantize_folder(
    source: Path,
    folder: Path,
    bits: int,
    group_size: int | None,
    minima: bool,
    clip: bool,
    progress: Callable[[str], object] = lambda line: None,
) -> None:
    """Write the checkpoint in ``source``, of floating-point weights, into ``folder`` with its linear layers in ``bits``
    bits, the embedding and lm_head in 8, all else as it is.

    ``group_size``: None: in 4 bits the largest usual one that rows consist of, in 8 a row. ``progress`` gets a line of
    what it costs and saves. Host memory stays near that of one file of weights, about 1 GB, and of one weight. Raises
    :class:`LlamaError` for a checkpoint that does not load, is quantised already, or has no such groups.
    """
    with telling_damage(source):
        config = LlamaConfig.from_folder(source)
    if config.quantization:
        raise LlamaError(f"{source}: is quantised already ({config.quantization})")
    columns = {shape[1] for shape in checkpoint.expected_shapes(config).values() if len(shape) == 2}
    if bits == 4 and group_size is None:
        group_size = next(iter(group_sizes(bits, columns)), None)
    scheme = Scheme.checked(bits, group_size, minima, columns)
    costs = _Costs(tied=config.tie_word_embeddings)
    folder.mkdir(parents=True, exist_ok=True)
    with telling_damage(source):
        shards.write(_quantized(source, config, scheme, clip, costs), folder)
    for file in [found for pattern in _COPIED for found in source.glob(pattern) if found.is_file()]:
        shutil.copyfile(file, folder / file.name)
    values = read_json(source / "config.json") | {KEY: scheme.to_dict()}
    (folder / "config.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    progress(f"{scheme}: {costs}")


@dataclass
class _Costs:
    """Bytes of all weights and those that a token reads, before and after; squares of weights and of their errors."""

    tied: bool
    before: int = 0
    after: int = 0
    read_before: int = 0
    read_after: int = 0
    squares: float = 0.0
    errors: float = 0.0

    def add(self, name: str, weight: torch.Tensor, result: torch.Tensor | QuantizedWeight) -> None:
        self.before += weight.nbytes
        self.after += result.nbytes
        if self.tied or name != "model.embed_tokens.weight":  # of which else a row is read
            self.read_before += weight.nbytes
            self.read_after += result.nbytes
        if isinstance(result, QuantizedWeight):
            rows = _rows(weight)
            for start in range(0, len(weight), rows):
                part = weight[start : start + rows].float()
                self.squares += float(part.square().sum())
                self.errors += float((result[start : start + rows].dequantize() - part).square().sum())

    def __str__(self) -> str:
        error = math.sqrt(self.errors / self.squares) if self.squares else 0.0
        return (
            f"{self.after / 1e6:,.1f} MB of weights, were {self.before / 1e6:,.1f}; {self.read_after / 1e6:,.1f} MB "
            f"read a token, were {self.read_before / 1e6:,.1f}; relative RMS error {error:.3g}"
        )


def _quantized(
    source: Path, config: LlamaConfig, scheme: Scheme, clip: bool, costs: _Costs
) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
    for file, name, weight in checkpoint.stream(source, config):
        result: torch.Tensor | QuantizedWeight = weight
        checkpoint.check_finite(weight, f"{file}: {name}")
        if weight.dim() == 2:
            form = scheme.of(name)
            try:
                result = quantize(weight, form.bits, form.group_size or weight.shape[1], form.minima, clip)
            except LlamaError as error:
                raise LlamaError(f"{file}: {name}: {error}") from None
        costs.add(name, weight, result)
        yield name, result
