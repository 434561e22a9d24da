"""Figures drawn by a kernel's own index arithmetic.

Each function makes one pyplot figure of fixed size on white, so that it reads the same printed and in a dark theme; the
cell ends with ``plt.show()``. Neighbours differ by colours that the colour-blind can tell apart, and by a label.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pytriton_llama.bench.case import Case
from pytriton_llama.bench.plot import STYLES
from pytriton_llama.bench.results import Row
from pytriton_llama.course.cards import Card

# Okabe and Ito's set, black left out.
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
OFF: dict[str, Any] = {"facecolor": "white", "edgecolor": "#777777", "hatch": "////"}
ON: dict[str, Any] = {"edgecolor": "black", "linewidth": 0.8}
LEFT: dict[str, Any] = {"xytext": (-4, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
MAX_BOXES, MAX_TICKS = 200, 16


def axes(width: float, height: float, title: str = "", pad: float = 6) -> Axes:
    """One pair of axes in a new figure; inches. ``pad``: points below the title."""
    _, ax = plt.subplots(figsize=(width, height), facecolor="white", layout="constrained")
    ax.set_title(title, loc="left", fontsize=11, pad=pad)
    return ax


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def lanes(offs: Any, mask: Any, title: str = "") -> None:
    """Which elements of memory each program's lanes mean, and which lanes the mask switches off (hatched).

    Args:
        offs, mask: (programs, BLOCK) integers and booleans, by the kernel's own formula.
    """
    offs, mask = np.asarray(offs), np.asarray(mask)
    ax = axes(9, 0.2 + _height(len(offs)), title, pad=18)  # between them stands n
    for pid, (row, on) in enumerate(zip(offs, mask, strict=True)):
        _runs(ax, row[on], pid, facecolor=colour(pid), **ON)
        _runs(ax, row[~on], pid, **OFF)
        ax.annotate(f"pid {pid}", (row[0] - 0.5, pid), fontsize=9, **LEFT)
    size = offs[mask].max() + 1
    ax.axvline(size - 0.5, color="black", linewidth=2)
    ax.annotate(f"n = {size}", (size - 0.5, -0.5), (4, 2), textcoords="offset points", fontsize=9)
    _memory_axis(ax, offs.max() + 1, len(offs))
    if len(offs) <= MAX_TICKS:
        ax.set_xticks([*offs[:, 0], offs.max() + 1], [*map(str, offs[:, 0]), ""])


def memory(touched: dict[str, Any], size: int, title: str = "") -> None:
    """Elements of one stretch of memory that each of several parties touches.

    Args:
        touched: offsets in elements, by who touches them: ``launch.touched("x_ptr", program=(2, 0, 0))``.
        size: how many elements the memory has.
    """
    ax = axes(9, _height(len(touched)), title)
    for number, (name, offs) in enumerate(touched.items()):
        _runs(ax, np.arange(size), number, facecolor="white", edgecolor="#bbbbbb", linewidth=0.8)
        _runs(ax, np.unique(np.asarray(offs)), number, facecolor=colour(number), **ON)
        ax.annotate(name, (-0.5, number), fontsize=9, **LEFT)
    _memory_axis(ax, size, len(touched))


def _runs(ax: Axes, offs: np.ndarray, row: int, **style: Any) -> None:
    """Boxes over runs of neighbouring offsets; every element its own where there are few."""
    if not offs.size:
        return
    parts = np.split(offs, np.flatnonzero(np.diff(offs) != 1) + 1) if offs.size > MAX_BOXES else offs[:, None]
    for part in parts:
        ax.add_patch(Rectangle((part[0] - 0.5, row - 0.36), len(part), 0.72, **style))


def _height(rows: int) -> float:
    return 0.9 + min(0.42 * rows, 6.0)


def _memory_axis(ax: Axes, size: int, rows: int) -> None:
    ax.set(xlim=(-0.52, size - 0.45), ylim=(rows - 0.5, -0.5), yticks=[], xlabel="element of memory")
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True, steps=[1, 2, 4, 5, 10]))
    ax.spines[["left", "right", "top"]].set_visible(False)


def tiles(
    shape: tuple[int, int],
    tile_of: Callable[[int], tuple[Any, Any]],
    programs: Sequence[int],
    title: str = "",
    order: bool = False,
) -> None:
    """Which tile of a matrix each program has; what hangs over the edge is hatched: the mask switches it off.

    Args:
        shape: rows and columns.
        tile_of: from a program's number to its ``offs_m`` and ``offs_n``.
        programs: which of them to draw.
        order: also join the tiles' centres in the order of the programs.
    """
    M, N = shape
    ax = axes(7, 4, title)
    centres = []
    for pid in programs:
        offs_m, offs_n = (np.asarray(offs) for offs in tile_of(pid))
        (top, height), (left, width) = ((offs.min(), offs.max() - offs.min() + 1) for offs in (offs_m, offs_n))
        ax.add_patch(Rectangle((left, top), width, height, **OFF))
        inside = min(top + height, M) - top, min(left + width, N) - left
        if min(inside) > 0:
            ax.add_patch(Rectangle((left, top), inside[1], inside[0], facecolor=colour(pid), **ON))
        seen = inside if min(inside) > 0 else (height, width)
        centres.append((left + seen[1] / 2, top + seen[0] / 2))
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        ax.text(*centres[-1], str(pid), ha="center", va="center", fontsize=9, bbox=box, zorder=4)
    if order:
        ax.plot(*zip(*centres, strict=True), color="black", linewidth=1.2, zorder=3)
    ax.add_patch(Rectangle((0, 0), N, M, facecolor="none", edgecolor="black", linewidth=2.2))
    ax.set(xlabel=f"column, of {N}", ylabel=f"row, of {M}")
    ax.autoscale_view()
    ax.margins(0.02)
    ax.invert_yaxis()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(plt.MaxNLocator(integer=True))


# A token's way through Llama-3.2-1B: operation, words on its box, numbers a token has after it.
LLAMA = (
    ("embedding", "embed", 2048),
    ("rms_norm", "rms_norm", 2048),
    ("linear", "linear\nq, k, v", 3072),
    ("rotary_embedding", "rotary\nembedding", 3072),
    ("flash_attention", "attention", 2048),
    ("linear", "linear\n+ x", 2048),
    ("rms_norm", "rms_norm", 2048),
    ("swiglu", "swiglu", 8192),
    ("linear", "linear\n+ x", 2048),
    ("rms_norm", "rms_norm", 2048),
    ("linear", "linear\nlogits", 128256),
)
REPEATED = range(1, 9)  # the boxes that make a layer
LAYERS = 16


def llama(operation: str, title: str = "") -> None:
    """Where an operation sits in Llama-3.2-1B: every step of a token's way, the operation's own coloured.

    Args:
        operation: as in LLAMA: "rms_norm", "linear", "rotary_embedding", "flash_attention", "swiglu".
    """
    ax = axes(9, 2.1, title)
    for i, (name, words, width) in enumerate(LLAMA):
        face = colour(0) if name == operation else "white"
        ax.add_patch(Rectangle((i - 0.42, -0.5), 0.84, 1, facecolor=face, **ON))
        ax.text(i, 0, words, ha="center", va="center", fontsize=8)
        ax.text(i + 0.5, -0.85, str(width), ha="center", va="center", fontsize=8)
        ax.annotate("", (i + 0.6, 0), (i + 0.42, 0), arrowprops={"arrowstyle": "-|>", "color": "black"})
    left, right = REPEATED[0] - 0.5, REPEATED[-1] + 0.5
    ax.plot([left, left, right, right], [0.7, 0.9, 0.9, 0.7], color="black", linewidth=1)
    ax.text((left + right) / 2, 1.05, f"{LAYERS} times: a layer", ha="center", va="bottom", fontsize=9)
    ax.text(-0.42, -1.4, "below the arrows: how many numbers a token has there", va="center", fontsize=8)
    ax.set(xlim=(-0.5, len(LLAMA) - 0.1), ylim=(-1.6, 1.6))
    ax.set_axis_off()


def steps(rows: dict[str, Sequence[tuple[str, str]]], operation: str, title: str = "") -> None:
    """Chains of operations, one a row, with the shape that each hands on; ``operation``'s boxes are coloured.

    Args:
        rows: what a row is part of, and its boxes from left to right: its words, the shape below its arrow.
    """
    ax = axes(9, 0.5 + 0.8 * len(rows), title)
    for y, (part, boxes) in enumerate(rows.items()):
        ax.text(-0.2, y, part, ha="right", va="center", fontsize=9)
        for i, (words, shape) in enumerate(boxes):
            x = 1.75 * i
            face = colour(0) if words == operation else "white"
            ax.add_patch(Rectangle((x, y - 0.22), 1, 0.44, facecolor=face, **ON))
            ax.text(x + 0.5, y, words, ha="center", va="center", fontsize=9)
            ax.annotate("", (x + 1.75, y), (x + 1, y), arrowprops={"arrowstyle": "-|>", "color": "black"})
            ax.text(x + 1.37, y + 0.3, shape, ha="center", va="top", fontsize=8)
    ax.set(xlim=(-1.6, 1.75 * max(map(len, rows.values())) + 0.1), ylim=(len(rows) - 0.4, -0.4))
    ax.set_axis_off()


def roofline(card: Card, operations: dict[str, tuple[int, int]], peak: str = "fp32", title: str = "") -> None:
    """How many FLOP/s a card allows at each intensity, and where operations stand under that roof.

    Args:
        operations: FLOPs and bytes by name; a point is drawn on the roof, where the fastest kernel would be.
        peak: which of the card's peaks is the roof's flat part, "fp32" or "fp16".
    """
    flat = getattr(card, peak)
    ridge = flat / card.bandwidth
    intensities = [flops / moved for flops, moved in operations.values()]
    x = np.geomspace(
        min([0.05, *(0.5 * i for i in intensities)]), max([20 * ridge, *(40 * i for i in intensities)]), 200
    )
    ax = axes(
        8, 4, title or f"Roofline of an {card.name}: {card.bandwidth / 1e9:,.0f} GB/s, {flat / 1e12:g} TFLOP/s {peak}"
    )
    ax.plot(x, np.minimum(x * card.bandwidth, flat) / 1e12, color="black", linewidth=2)
    ax.axvline(ridge, color="#777777", linestyle=":")
    ax.text(ridge * 0.93, flat / 1e12 * 2e-3, "memory-bound", ha="right", fontsize=9)
    ax.text(ridge * 1.07, flat / 1e12 * 2e-3, "compute-bound", ha="left", fontsize=9)
    for number, (name, intensity) in enumerate(zip(operations, intensities, strict=True)):
        height = min(intensity * card.bandwidth, flat) / 1e12
        ax.plot(intensity, height, "osD^v"[number % 5], color=colour(number), markeredgecolor="black", markersize=9)
        # Labels to the lower right: the roof doesn't pass there.
        ax.annotate(name, (intensity, height), (7, -14), textcoords="offset points", fontsize=9)
    ax.set(xscale="log", yscale="log", xlabel="FLOP per byte moved", ylabel="TFLOP/s")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.grid(alpha=0.3)


def waterfall(rows: Sequence[Mapping[str, str]], floor: float | None = None, title: str = "") -> None:
    """A token's time, step by step: what is left after each, and hatched what the step saved.

    Args:
        rows: in order; each has ``step``, ``us_per_token`` and ``gpu``.
        floor: µs that no step can stay below, drawn as a line.
    """
    times = [float(row["us_per_token"]) for row in rows]
    ax = axes(9, 0.9 + 0.45 * len(rows), title or f"microseconds a token, {rows[0]['gpu']}")
    for y, (time, before) in enumerate(zip(times, times[:1] + times, strict=False)):
        left, width = min(time, before), abs(before - time)
        ax.add_patch(Rectangle((left, y - 0.36), width, 0.72, **OFF))
        ax.add_patch(Rectangle((0, y - 0.36), time, 0.72, facecolor=colour(0), **ON))
        gain = f"  ÷ {before / time:.2f}" if y else ""
        ax.annotate(f"{time:,.0f}{gain}", (max(time, before), y), (4, 0), textcoords="offset points", va="center")
    if floor is not None:
        ax.axvline(floor, color="#D55E00", linewidth=2, linestyle="--")
        ax.annotate(f"floor {floor:,.0f}", (floor, -0.5), (4, 2), textcoords="offset points", fontsize=9)
    ax.set_yticks(range(len(rows)), [row["step"] for row in rows])
    ax.set(xlim=(0, 1.18 * max(times)), ylim=(len(rows) - 0.5, -0.5 if floor is None else -0.95), xlabel="µs a token")
    ax.spines[["right", "top"]].set_visible(False)


# Lines of a notebook's own versions, by colours that the peers beside them leave, and marks that no peer has.
OWN_COLOURS = ("#E69F00", "#56B4E9", "#777777", "#CC79A7", "#009E73", "#0072B2", "#000000")
OWN_MARKERS = "*Xhp<"
OWN_DASHES = ((0, (9, 3)), (0, (2, 2)), (0, (9, 2, 2, 2, 2, 2)), (0, (5, 5)), (0, (1, 3)))


def rates(case: Case, rows: Sequence[Row], title: str = "") -> None:
    """Speed over problem size, a line a contender; a notebook's own versions come last, with open markers."""
    ax = axes(8, 4, title or f"{case.op} {rows[0].dtype}, {rows[0].gpu}")
    names = list(dict.fromkeys(row.contender for row in rows if row.rate))
    looks = {name: STYLES[name] for name in names if name in STYLES}
    free = [c for c in OWN_COLOURS if c not in {look["color"] for look in looks.values()}]
    for number, name in enumerate(name for name in names if name not in STYLES):
        looks[name] = {
            "color": free[number % len(free)],
            "marker": OWN_MARKERS[number % 5],
            "markerfacecolor": "white",
            "markersize": max(9, 15 - 3 * number),  # on one spot, the earlier look out from under the later
            "linestyle": OWN_DASHES[number % 5],
            "zorder": 5,
        }
    for name, look in looks.items():
        line = sorted(
            (row.point.shape[case.swept], float(row.rate)) for row in rows if row.contender == name and row.rate
        )
        ax.plot(*zip(*line, strict=True), label=name, **({"markersize": 6} | look))
    ax.set_xscale("log", base=2)
    sizes = sorted({row.point.shape[case.swept] for row in rows if row.rate})
    labelled: list[int] = []
    for n in sorted(sizes, key=lambda n: n & (n - 1)):  # powers of two first: of 4096 and 4097, one label has room
        if all(abs(np.log2(n / other)) > 0.25 for other in labelled):
            labelled.append(n)
    ax.set_xticks(sizes, [str(n) if n in labelled else "" for n in sizes], rotation=45)
    ax.set(xlabel=case.axis, ylabel=case.unit)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=4)
