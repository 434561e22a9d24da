"""From recorded CSVs to the PNGs, and to the tables in README.md (``make figures``).

README.md has ``<!-- bench:NAME -->`` … ``<!-- /bench -->`` for every result it shows; what stands between is
generated. Where nothing is recorded under that name, the text between stays as it is.
"""

import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from pytriton_llama.bench import generate, results, settings
from pytriton_llama.bench.case import Case, Point
from pytriton_llama.bench.cases import CASES
from pytriton_llama.bench.plot import plot
from pytriton_llama.bench.results import Row
from pytriton_llama.errors import LlamaError

SECTION = re.compile(r"(<!-- bench:(\S+) -->)(.*?)(<!-- /bench -->)", re.DOTALL)


def by_point(rows: Sequence[Row]) -> dict[Point, dict[str, Row]]:
    """Each point's rows by contender."""
    found: dict[Point, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.point, {})[row.contender] = row
    return found


def ratio(by: dict[str, Row]) -> float | None:
    """Our rate over the best peer's at one point; None where there is nothing to compare."""
    rates = {name: float(row.rate) for name, row in by.items() if row.status == "ok" and name != settings.COPY}
    ours = rates.pop(settings.OURS, None)
    return ours / max(rates.values()) if ours and rates else None


def table(case: Case, rows: Sequence[Row], label: Callable[[Point], str] = str, heading: str = "point") -> str:
    """Markdown: a line a point, a column a contender, and how ours compares where we compete.

    Contenders that the case does not have, such as a notebook's own versions, come first and are no peers.
    """
    known, present = case.contenders(), dict.fromkeys(row.contender for row in rows)
    names = [*(name for name in present if name not in known), *(name for name in known if name in present)]
    lines = [[heading, *names], ["--:"] * (len(names) + 1)]
    lines += [[label(point), *(_cell(by.get(name)) for name in names)] for point, by in by_point(rows).items()]
    if settings.OURS in names:
        compared = by_point([row for row in rows if row.contender in known])
        ratios = [f"{r:.2f}" if (r := ratio(by)) else "–" for by in compared.values()]
        lines = [[*line, last] for line, last in zip(lines, ["ours / best peer", "--:", *ratios], strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(row: Row | None) -> str:
    if row is None or row.status == "skipped":
        return "–"
    return f"{float(row.rate):.4g}" if row.status == "ok" else row.status


def notes(case: Case, rows: Sequence[Row]) -> str:
    """What belongs under a table: how ours compares over all points, and what a launch costs the host."""
    means, costs = [], []
    for dtype in dict.fromkeys(row.dtype for row in rows):
        ratios = [r for by in by_point([row for row in rows if row.dtype == dtype]).values() if (r := ratio(by))]
        if ratios:
            means.append(f"{statistics.geometric_mean(ratios):.2f} in {dtype}")
    for name in case.contenders():
        times = [float(row.launch_us) for row in rows if row.contender == name and row.status == "ok"]
        if times and name != settings.COPY:
            costs.append(f"{name} {statistics.median(times):.0f}")
    wrappers = [
        float(row.launch_us) - float(row.bare_launch_us)
        for row in rows
        if row.contender == settings.OURS and row.status == "ok"
    ]
    compared = f"Ours / best peer, geometric mean: {', '.join(means)}. " if means else ""
    besides = f"; of ours, the wrapper's own Python is {statistics.median(wrappers):.1f} µs" if wrappers else ""
    return f"{compared}Launching from Python, which no rate contains: {', '.join(costs)} µs{besides}."


def section(case: Case, rows: Sequence[Row]) -> str:
    """What README.md shows of a result: the plot, a table of its first dtype, and where all of it was measured."""
    shown = [row for row in rows if case.plotted(row.point)]
    first, file = shown[0], f"benchmark_result/{case.result}"
    lines = table(
        case,
        [row for row in shown if row.dtype == first.dtype],
        lambda point: str(point.shape[case.swept]),
        case.axis,
    )
    return (
        f"\n![{case.op} on {first.gpu}]({file}.png)\n\n{lines}\n\n"
        f"{case.unit} in {first.dtype}, medians; {case.setting}. {notes(case, shown)} Measured on one {first.gpu}, "
        f"driver {first.driver}, {first.versions}, {first.date}. All points: [{case.result}.csv]({file}.csv).\n"
    )


def publish(case: Case, rows: Sequence[Row], folder: Path = settings.RECORDED) -> None:
    """Write a whole result where git keeps it: CSV and PNG."""
    results.write(folder / f"{case.result}.csv", rows)
    plot(case, rows, folder / f"{case.result}.png")


def updated(text: str, folder: Path = settings.RECORDED) -> str:
    """README's text with every recorded result between its markers."""
    by_result = {case.result: case for case in CASES.values()}

    def between(found: re.Match) -> str:
        opening, name, old, closing = found.groups()
        if name.startswith("generate-"):
            measured = generate.read(folder / f"{name}.csv")
            return f"{opening}{generate.section(measured) if measured else old}{closing}"
        rows = results.read(folder / f"{name}.csv")
        if rows and name not in by_result:
            raise LlamaError(f"README.md: no benchmark writes {name!r}; known: {', '.join(by_result)}")
        return f"{opening}{section(by_result[name], rows) if rows else old}{closing}"

    return SECTION.sub(between, text)


def disagreements(text: str, folder: Path = settings.RECORDED) -> list[str]:
    """The results whose text in README differs from what their CSV gives."""
    old, new = (SECTION.finditer(each) for each in (text, updated(text, folder)))
    return [a[2] for a, b in zip(old, new, strict=True) if a[3] != b[3]]


def main() -> None:
    """Make every PNG and README.md's tables from what is recorded."""
    for case in CASES.values():
        if rows := results.read(settings.RECORDED / f"{case.result}.csv"):
            plot(case, rows, settings.RECORDED / f"{case.result}.png")
    readme = settings.ROOT / "README.md"
    readme.write_text(updated(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
