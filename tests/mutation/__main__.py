"""Plant every fault in a copy of the package, and say which ones the tests catch: ``python -m tests.mutation``.

First the tests run without a fault: one that fails anyway would seem to catch everything.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.fault import ROOT, Fault
from tests.mutation.table import FAULTS

LIMIT = 300  # seconds for the tests of one fault
CAUGHT = "caught"
FAILED = 1  # pytest's exit code; others, but for a signal's, are no verdict on the fault


def run(checkout: Path, tests: Iterable[str], workers: int = 0, limit: int | None = None) -> tuple[int | None, str]:
    """pytest's exit code, None where it ran past ``limit`` seconds, and the test that failed, or pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", str(workers)]
    try:
        done = subprocess.run(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    said = re.findall(r"^(?:FAILED|ERROR) tests/([^\s\[]+)", done.stdout, re.MULTILINE)
    return done.returncode, said[0] if said else done.stdout.strip().rpartition("\n")[2]


def copy(checkout: Path) -> None:
    """What the tests need: beside the package themselves, and pytest's settings."""
    for folder in ("pytriton_llama", "tests"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)


def judge(fault: Fault) -> tuple[str, str]:
    """What becomes of a fault, and which test says so."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy(Path(folder))
        package = Path(folder, "pytriton_llama")
        if not fault.fits(package):
            return "stale", "its text does not stand there once"
        fault.plant(package)
        code, said = run(Path(folder), fault.tests.split(), limit=LIMIT)
    if code is None:
        return "no verdict", f"tests ran for more than {LIMIT} seconds"
    if code == FAILED or code < 0:
        return CAUGHT, said
    return ("survived", fault.tests) if code == 0 else ("no verdict", said)


def report(fault: Fault) -> str:
    began = time.perf_counter()
    verdict, said = judge(fault)
    print(f"{verdict:10} {time.perf_counter() - began:4.0f} s  {fault.file}: {fault.what} ({said})", flush=True)
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="only faults whose file or description has this in it")
    parser.add_argument("-n", type=int, default=2, metavar="WORKERS", help="faults at a time (default: %(default)s)")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if options.word in f"{fault.file}: {fault.what}"]
    if not faults:
        parser.error(f"no fault has {options.word!r} in its file or description")
    code, said = run(ROOT, sorted({test for fault in faults for test in fault.tests.split()}), options.n)
    if code:
        print(f"without a fault the tests fail already: {said}")
        return 1
    with ThreadPoolExecutor(options.n) as pool:
        verdicts = list(pool.map(report, faults))
    print(f"{verdicts.count(CAUGHT)} of {len(verdicts)} faults caught")
    return int(verdicts.count(CAUGHT) < len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
