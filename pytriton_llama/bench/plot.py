"""A result as a picture: ours, the peers and the ceiling as lines over the problem size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytriton_llama.bench import settings
from pytriton_llama.bench.case import Case
from pytriton_llama.bench.results import Row
from pytriton_llama.errors import LlamaError

# Colours from Okabe and Ito's set, which the colour-blind can tell apart; marker and dashes alone do it in print.
STYLES: dict[str, dict[str, Any]] = {
    settings.OURS: {"color": "#D55E00", "marker": "o", "linestyle": "-", "linewidth": 2.4, "zorder": 4},
    settings.COPY: {"color": "#000000", "marker": "", "linestyle": (0, (1, 1)), "linewidth": 1.6},
    "torch": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "torch.compile": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "Liger-Kernel": {"color": "#CC79A7", "marker": "D", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    "cuBLAS + torch": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "cuBLAS + torch.compile": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "cuBLAS": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "our Triton kernel": {"color": "#009E73", "marker": "x", "linestyle": (0, (2, 1))},
    "our kernels apart": {"color": "#CC79A7", "marker": "x", "linestyle": (0, (2, 1))},
    "torch int4": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "torch int8 + torch.compile": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "our decode_linear": {"color": "#CC79A7", "marker": "x", "linestyle": (0, (2, 1))},
    "SDPA": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "flex + torch.compile": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "SDPA flash": {"color": "#56B4E9", "marker": "v", "linestyle": (0, (3, 1))},
    "SDPA cuDNN": {"color": "#E69F00", "marker": "P", "linestyle": (0, (7, 2))},
}
SIZE, DPI = (9.0, 4.2), 150  # inches, dots an inch


def plot(case: Case, rows: Sequence[Row], path: Path) -> None:
    """One panel a dtype; lines are medians, bands the quartiles."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise LlamaError('plots need matplotlib: pip install "pytriton_llama[course]"') from None

    shown = [row for row in rows if row.status == "ok" and case.plotted(row.point)]
    dtypes = list(dict.fromkeys(row.dtype for row in shown))
    # No pyplot: a figure of our own leaves a notebook's backend and settings alone.
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0]
    for panel, dtype in zip(panels, dtypes, strict=True):
        for name in case.contenders():
            line = sorted(
                (row.point.shape[case.swept], *(_rate(row, t) for t in (row.median_us, row.q3_us, row.q1_us)))
                for row in shown
                if row.dtype == dtype and row.contender == name
            )
            if line:
                sizes, median, slow, fast = zip(*line, strict=True)
                panel.plot(sizes, median, label=name, markersize=5, **STYLES[name])
                panel.fill_between(sizes, slow, fast, color=STYLES[name]["color"], alpha=0.2, linewidth=0)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        panel.tick_params(axis="x", labelrotation=45)
        panel.grid(alpha=0.3)
        panel.set_title(dtype)
        panel.set_xlabel(case.axis)
    panels[0].set_ylabel(case.unit)
    # Once every panel has its lines: they share this axis.
    panels[0].set_ylim(0, 1.05 * max(_rate(row, row.q1_us) for row in shown))
    handles, labels = panels[0].get_legend_handles_labels()
    # Dashes are told apart only where the legend shows a whole period of them.
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=4, frameon=False)
    figure.suptitle(", ".join(filter(None, (case.op, case.setting, shown[0].gpu))))
    figure.savefig(path, metadata={"Software": None})


def _rate(row: Row, time_us: str) -> float:
    """The row's rate is its median's; other times of the same work scale it."""
    return float(row.rate) * float(row.median_us) / float(time_us)
