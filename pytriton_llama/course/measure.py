"""Ours beside its peers and the ceiling: live on a GPU, else as recorded, with the card's name.

Everything here differs from machine to machine: it belongs into cells whose output is ignored.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from IPython.display import Markdown, display

from pytriton_llama.bench import harness, results, settings
from pytriton_llama.bench.case import Case, Run
from pytriton_llama.bench.cases import CASES
from pytriton_llama.bench.figures import table
from pytriton_llama.bench.results import Row
from pytriton_llama.course import figures
from pytriton_llama.course.inputs import device

# A live look: so many repeats, of points that leave room for others on a small card.
REPEATS, ALLOWANCE, MAX_BYTES = 10, 10.0, 300e6


def measure(op: str | Case, also: dict[str, Run] | None = None) -> None:
    """Show a table and a plot of an operation's speed; end the cell with ``plt.show()``.

    Args:
        op: the operation's name, or a bench case.
        also: the notebook's own versions by name, which compete as well where it is measured live.
    """
    case = CASES[op] if isinstance(op, str) else op
    if device.type == "cuda":
        competing = {name: (lambda run=run: run) for name, run in (also or {}).items()}
        rows, origin = live(dataclasses.replace(case, peers=competing | case.peers)), "measured just now"
    else:
        rows, origin = recorded(case), "no GPU here, so this is a recording"
    if not rows:
        print(f"{case.op}: no GPU here, and nothing recorded in benchmark_result/{case.result}.csv")
        return
    display(Markdown(f"{origin}: {rows[0].gpu}, {case.unit}\n\n{table(case, rows)}"))
    figures.rates(case, rows)


def live(case: Case) -> list[Row]:
    """A few quick measurements on this GPU."""
    from pytriton_llama.bench import timing

    timer, environment = timing.CudaTimer(), timing.environment()
    points = [point for point in case.quick if case.bytes(point) <= MAX_BYTES] or case.quick[:1]
    return [row for point in points for row in harness.measure(case, point, timer, environment, REPEATS, ALLOWANCE)]


def recorded(case: Case) -> list[Row]:
    """The recorded rows of the case's first dtype that its plot shows; none where nothing is recorded."""
    rows = [row for row in results.read(settings.RECORDED / f"{case.result}.csv") if case.plotted(row.point)]
    return [row for row in rows if row.dtype == rows[0].dtype]


def recorded_ceilings() -> dict[str, float]:
    """The fastest copy and the fastest read of memory that were recorded, in GB/s; prints them with their card."""
    rows = [row for case in CASES.values() for row in results.read(settings.RECORDED / f"{case.result}.csv")]
    found = {
        "copy": [row for row in rows if row.contender == settings.COPY and row.status == "ok"],
        "read": [
            row for row in rows if row.op == "ceiling_read" and row.contender != settings.COPY and row.status == "ok"
        ],
    }
    best = {name: max(those, key=lambda row: float(row.rate)) for name, those in found.items() if those}
    for name, row in best.items():
        print(f"fastest {name} recorded, on an {row.gpu}: {float(row.rate):,.0f} GB/s")
    if not best:
        print("no ceilings are recorded in benchmark_result/ yet")
    return {name: float(row.rate) for name, row in best.items()}


def seconds(function: Callable, *args: Any, repeats: int = 5) -> float:
    """Seconds from the call until its work is done, launch included; the median of a few, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function(*args)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def peak_memory() -> int:
    """Bytes of GPU memory that this process held at most so far; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
