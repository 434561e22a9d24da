"""Measurements as CSV: one row a contender and point."""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pytriton_llama.bench.case import Case, Point


@dataclass(frozen=True)
class Environment:
    """What a measurement depends on besides the code."""

    gpu: str
    driver: str
    versions: str


@dataclass(frozen=True)
class Row:
    """Times in µs (median and quartiles of a call on the GPU; ``launch_us``: on the host; ``bare_launch_us``: what of
    that our wrapper cannot avoid, its kernels' launches and its results' allocation), rate in ``unit``.

    Only status ``ok`` has times; ``wrong`` and ``skipped`` have a note that says why.
    """

    op: str
    dtype: str
    shape: str
    contender: str
    status: str
    median_us: str
    q1_us: str
    q3_us: str
    launch_us: str
    bare_launch_us: str
    rate: str
    unit: str
    note: str
    gpu: str
    driver: str
    versions: str
    source: str  # which version of our kernel: see digest()
    date: str

    @property
    def point(self) -> Point:
        return Point(tuple(map(int, self.shape.split("x"))), self.dtype)


COLUMNS = [field.name for field in fields(Row)]


def shape_text(point: Point) -> str:
    return "x".join(map(str, point.shape))


def digest(case: Case) -> str:
    """Changes with the operation's kernel and tile sizes: an edited kernel is measured again, at any version."""
    folder = Path(__file__).parents[1] / "kernels"
    files = [] if case.kernel is None else [*sorted(folder.glob(f"{case.kernel}*.py")), folder / "tiles.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _text(rows: Iterable[Row], header: bool) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(map(asdict, rows))
    return out.getvalue()


def write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_text(rows, header=True), encoding="utf-8")


def append(path: Path, rows: Iterable[Row]) -> None:
    """A whole point at once: whoever interrupts loses that point, not the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with path.open("a", encoding="utf-8") as file:
        # A write that was cut short left a line without an end.
        file.write(("" if not before or before.endswith("\n") else "\n") + _text(rows, header=not before))


def read(path: Path) -> list[Row]:
    """Every whole row; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**row) for row in csv.DictReader(file) if None not in row and None not in row.values()]


def current(case: Case, rows: Iterable[Row], environment: Environment) -> dict[Point, dict[str, Row]]:
    """Points measured by every contender in this environment with this kernel, in the case's order; the newest."""
    found: dict[Point, dict[str, Row]] = {point: {} for point in case.points}
    key = (*asdict(environment).values(), digest(case))
    for row in rows:
        if (row.gpu, row.driver, row.versions, row.source) == key and row.point in found:
            found[row.point][row.contender] = row
    return {point: by for point, by in found.items() if by.keys() >= case.contenders().keys()}
