"""``pytriton-llama bench``: measure operations, print what came out, and record it where it counts."""

import sys
from collections.abc import Sequence

from pytriton_llama.bench import settings
from pytriton_llama.errors import LlamaError


def bench(ops: Sequence[str] = (), quick: bool = False, record: bool = False) -> None:
    """Measure ``ops`` (default: all) beside their peers, into ``benchmark_result/local``; print a table of each.

    Args:
        quick: few points and repeats, in a file of their own, for a look while working on a kernel.
        record: also write ``benchmark_result/<name>.csv`` and ``.png``, on ``settings.RECORDED_ON`` only.

    Raises:
        LlamaError: no such operation, no GPU, another GPU than the one to record on, points left to measure.
    """
    from pytriton_llama.bench import harness, results, timing
    from pytriton_llama.bench.cases import CASES
    from pytriton_llama.bench.figures import notes, publish, table

    known = dict.fromkeys(case.op for case in CASES.values())
    if unknown := [op for op in ops if op not in (*known, *CASES)]:
        raise LlamaError(f"bench: no operation {unknown[0]!r}; known: {', '.join(known)}")
    # An operation stands for all of its cases.
    names = [
        name for op in ops or known for name, case in CASES.items() if op in ((case.op,) if op in known else (name,))
    ]
    if quick and record:
        raise LlamaError("bench: --quick measures too little to --record; leave one out")
    timer, environment = timing.CudaTimer(), timing.environment()
    if record:
        allow_recording(environment.gpu)
    unfinished = []
    for name in names:
        this = CASES[name]
        path = settings.LOCAL / f"{this.result}{'.quick' if quick else ''}.csv"
        points = this.quick if quick else this.points
        left = harness.run(
            this, points, timer, environment, path, settings.QUICK_REPEATS if quick else settings.REPEATS
        )
        found = results.current(this, results.read(path), environment)
        rows = [row for point in points if point in found for row in found[point].values()]
        if rows:
            print(f"## {name}, {this.unit}\n\n{table(this, rows)}\n\n{notes(this, rows)}\n")
        print(f"{name}: {len(rows)} rows in {path}", file=sys.stderr)
        if left:
            unfinished.append(name)
            print(f"{name}: {left} points left after {settings.BUDGET:.0f} s; run again to go on", file=sys.stderr)
        elif record:
            publish(this, rows)
    if record and unfinished:
        raise LlamaError(f"bench: not recorded, because unfinished: {', '.join(unfinished)}; run again to go on")


def allow_recording(gpu: str) -> None:
    """Raise unless this is the GPU that published figures come from."""
    if settings.RECORDED_ON not in gpu:
        raise LlamaError(f"bench: --record is for an {settings.RECORDED_ON}, and this is an {gpu}")
