"""Run every kernel under NVIDIA's compute-sanitizer, and write docs/sanitizer.md: ``python -m tests.sanitizer``.

All groups run without it first: that compiles the kernels and counts the launches. Then each group runs under each tool
in a process of its own, every tensor an allocation of its own. Fails where memcheck reports anything, or where a
process does not come to an end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.fault import ROOT
from tests.sanitizer.document import write
from tests.sanitizer.launches import GROUPS
from tests.sanitizer.log import Report, reports

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
LIMIT = 150  # seconds for one process


@dataclass(frozen=True)
class Run:
    """One group under one tool; ``failure`` says why there are no reports."""

    tool: str
    group: str
    launches: dict[str, int]
    found: Counter[Report]
    failure: str = ""


def find() -> str:
    for place in ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer"):
        if path := shutil.which(place):
            return path
    sys.exit("compute-sanitizer not found: it comes with NVIDIA's CUDA toolkit")


def launch(group: str, before: list[str]) -> subprocess.CompletedProcess[str]:
    # Our `timeout` ends compute-sanitizer together with the process that it watches.
    return subprocess.run(
        ["timeout", "-k", "5", str(LIMIT), *before, sys.executable, "-m", "tests.sanitizer.launches", group],
        cwd=ROOT,
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def count(group: str) -> dict[str, int]:
    done = launch(group, [])
    if done.returncode:
        sys.exit(f"{group} fails already without compute-sanitizer:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def watch(sanitizer: str, tool: str, group: str, launches: dict[str, int]) -> Run:
    with tempfile.TemporaryDirectory(prefix="sanitizer-") as folder:
        log = Path(folder, "log")
        command = [sanitizer, "--tool", tool, "--log-file", str(log), "--print-limit", "100000"]
        command += ["--show-backtrace", "no"]
        if tool != "initcheck":  # which must see what torch's own kernels write
            command += filters(sanitizer, launches)
        done = launch(group, command)
        text = log.read_text(errors="replace") if log.exists() else ""
    found: Counter[Report] = Counter()
    failure = f"ended with {done.returncode}: {(text + done.stderr).strip()[-500:]}" if done.returncode else ""
    try:
        found = reports(text, launches)
    except ValueError as error:
        failure = f"{error}; {failure}"
    print(f"{tool:10} {group:10} {found.total():5} reports {failure}", flush=True)
    return Run(tool, group, launches, found, failure)


def filters(sanitizer: str, kernels: dict[str, int]) -> list[str]:
    """Options by which only these kernels are looked at; their name differs between versions."""
    usage = subprocess.run([sanitizer, "--help"], capture_output=True, text=True).stdout
    option = next((o for o in ("--kernel-name", "--kernel-regex") if o in usage), None)
    return [part for kernel in kernels for part in (option, f"kns={kernel}")] if option else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitizer", description=__doc__)
    parser.add_argument("tools", nargs="*", default=TOOLS, metavar="TOOL", help=f"some of {', '.join(TOOLS)}")
    parser.add_argument("-n", type=int, default=5, metavar="WORKERS", help="at a time (default: %(default)s)")
    options = parser.parse_args()
    sanitizer = find()
    with ThreadPoolExecutor(options.n) as pool:
        counts = dict(zip(GROUPS, pool.map(count, GROUPS), strict=True))
        jobs = [(sanitizer, tool, group, counts[group]) for tool in options.tools for group in GROUPS]
        runs = list(pool.map(lambda job: watch(*job), jobs))
    write(ROOT / "docs" / "sanitizer.md", sanitizer, runs)
    return int(any(run.failure or (run.tool == "memcheck" and run.found) for run in runs))


if __name__ == "__main__":
    sys.exit(main())
