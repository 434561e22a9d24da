"""What compute-sanitizer's logs say."""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePath

PREFIX = "========="
SUMMARY = re.compile(rf"^{PREFIX} (?:ERROR|RACECHECK) SUMMARY: (\d+)", re.MULTILINE)
# "Write access at some_kernel+0x1a0 in /some/file.py:29"; without line numbers the place is left out.
PLACE = re.compile(r"(?:(Read|Write|Atomic)[^+]*? )?\bat (\w+)\+0x[0-9a-f]+(?: in ([^\s:]+):(\d+))?")


@dataclass(frozen=True, order=True)
class Report:
    """Reports that are alike: of one kernel, one kind, and the same source lines.

    Attributes:
        places: the lines, each with the kind of access where the tool says so.
    """

    kernel: str
    what: str
    places: tuple[str, ...]


def reports(log: str, kernels: Collection[str]) -> Counter[Report]:
    """How often each kind is reported of one of ``kernels``; others, torch's among them, are not looked at.

    Raises:
        ValueError: the log ends before the tool has summed up.
    """
    if not SUMMARY.search(log):
        raise ValueError("compute-sanitizer has not come to an end")
    found: Counter[Report] = Counter()
    for lines in _blocks(log):
        matches = [match for line in lines for match in PLACE.finditer(line)]
        if not matches or matches[0][2] not in kernels:
            continue
        places = [
            f"{kind or ''} {PurePath(file).name}:{line}".strip()
            for kind, _, file, line in (match.groups() for match in matches)
            if file
        ]
        what = re.sub(r" (?:between .*|at \S+\+0x.*)$", "", lines[0])
        found[Report(matches[0][2], what, tuple(places))] += 1
    return found


def _blocks(log: str) -> Iterator[list[str]]:
    """The lines of each report: one that is not indented, and those below it that are."""
    block: list[str] = []
    for line in log.splitlines():
        text = line.removeprefix(PREFIX)
        if line.startswith(PREFIX) and text.startswith("     "):
            block.append(text.strip())
        else:
            if block:
                yield block
            block = [text.strip()] if line.startswith(PREFIX) and text.strip() else []
    if block:
        yield block
