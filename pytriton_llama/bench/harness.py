"""Contenders side by side in one process: checked first, then timed in alternating order."""

import contextlib
import datetime
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from pytriton_llama.bench import check, results, settings
from pytriton_llama.bench.case import DTYPES, Case, Inputs, Point, Run
from pytriton_llama.bench.results import Environment, Row


class Timer(Protocol):
    """What :class:`pytriton_llama.bench.timing.CudaTimer` does, and a test's fake."""

    device: str

    def sampler(self, run: Run, sets: Sequence[Inputs]) -> Callable[[], float]: ...
    def launch_cost(self, run: Run, inputs: Inputs) -> float: ...
    def bare_launch_cost(self, run: Run, inputs: Inputs) -> float: ...
    def synchronize(self) -> None: ...


def draw_sets(case: Case, point: Point, device: str) -> list[Inputs]:
    """Random inputs, so many of them that going round once passes ``settings.L2_BYTES``."""
    generator = torch.Generator(device).manual_seed(1337)

    def draw(*shape: int, dtype: torch.dtype = DTYPES[point.dtype]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device=device)

    count = min(settings.MAX_SETS, -(-settings.L2_BYTES // case.bytes(point)))
    return [case.inputs(point, draw) for _ in range(count)]


def copy_sets(case: Case, point: Point, count: int, device: str) -> list[Inputs]:
    """What a copy reads in order to move as many bytes as the operation: half of them."""
    half = max(1, case.bytes(point) // 8)  # in words of 4 bytes
    return [(torch.randint(-(2**31), 2**31, (half,), dtype=torch.int32, device=device),) for _ in range(count)]


def alternate(samplers: dict[str, Callable[[], float]], rounds: int) -> Iterator[tuple[str, float]]:
    """Everyone once a round, forwards and backwards in turn: a drifting clock favours nobody."""
    for r in range(rounds):
        for name in list(samplers)[:: 1 if r % 2 == 0 else -1]:
            yield name, samplers[name]()


@dataclass(frozen=True)
class Entrant:
    """A contender at one point; without a ``sample`` function it is not timed, and ``note`` says why."""

    status: str
    note: str = ""
    launch: float = 0.0
    bare_launch: float = 0.0
    sample: Callable[[], float] | None = None


def enter(
    build: Callable[[], Run],
    sets: Sequence[Inputs],
    oracle: Any,
    timer: Timer,
    ours: bool,
    form: Callable[..., Inputs] | None = None,
) -> Entrant:
    """Check a contender, and prepare its timing only if it is right."""
    try:
        run = build()
        if form is not None:
            sets = [form(*inputs) for inputs in sets]
        # Peers run as they are: torch.compile would see the poison and compile something else.
        with check.poisoned() if ours else contextlib.nullcontext():
            # On a copy of the inputs: some contenders work in place.
            words = check.wrong(run(*(t.clone() for t in sets[0])), oracle)
        if words:
            return Entrant("wrong", words)
        # Ours calls nothing but kernels: what its wrapper costs besides can be told apart.
        bare = timer.bare_launch_cost(run, sets[0]) if ours else 0.0
        return Entrant("ok", "", timer.launch_cost(run, sets[0]), bare, timer.sampler(run, sets))
    except ImportError as error:
        return Entrant("skipped", f"not installed: {error.name}")
    except Exception as error:  # whatever a contender raises where it cannot take a point
        timer.synchronize()  # which raises where the GPU itself is out of order: that would fail everyone
        return Entrant("skipped", " ".join(f"{type(error).__name__}: {error}".split())[:200])


@torch.no_grad()
def measure(
    case: Case,
    point: Point,
    timer: Timer,
    environment: Environment,
    repeats: int,
    allowance: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """One row a contender. ``allowance``: seconds; a slow point is repeated less often, to stay within it."""
    started = clock()
    sets = draw_sets(case, point, timer.device)
    oracle = case.oracle(*(t.double() if t.is_floating_point() else t for t in sets[0]))
    entrants = {}
    for name, build in case.contenders().items():
        if name == settings.COPY:
            sets = copy_sets(case, point, len(sets), timer.device)
            oracle = ~sets[0][0]
        entrants[name] = enter(build, sets, oracle, timer, name == settings.OURS, case.forms.get(name))

    samplers = {name: entrant.sample for name, entrant in entrants.items() if entrant.sample}
    before = clock()
    dict(alternate(samplers, 1))
    a_round, left = max(clock() - before, 1e-9), allowance - (clock() - started)
    times: dict[str, list[float]] = {name: [] for name in samplers}
    for name, seconds in alternate(samplers, max(settings.MIN_REPEATS, min(repeats, int(left / a_round)))):
        times[name].append(seconds)
    return [_row(case, point, environment, name, entrants[name], times.get(name)) for name in entrants]


def _row(
    case: Case, point: Point, environment: Environment, name: str, entrant: Entrant, times: list[float] | None
) -> Row:
    measured = dict.fromkeys(("q1_us", "median_us", "q3_us", "launch_us", "bare_launch_us", "rate"), "")
    if times:
        quartiles = statistics.quantiles(times, n=4, method="inclusive")
        seconds = (*quartiles, entrant.launch, entrant.bare_launch)
        numbers = (*(1e6 * each for each in seconds), case.rate(point, quartiles[1]))
        measured = {key: f"{number:.3f}" for key, number in zip(measured, numbers, strict=True)}
    return Row(
        op=case.op,
        dtype=point.dtype,
        shape=results.shape_text(point),
        contender=name,
        status=entrant.status,
        unit=case.unit,
        note=entrant.note,
        source=results.digest(case),
        date=datetime.date.today().isoformat(),
        **measured,
        **asdict(environment),
    )


def run(
    case: Case,
    points: Sequence[Point],
    timer: Timer,
    environment: Environment,
    path: Path,
    repeats: int = settings.REPEATS,
    budget: float = settings.BUDGET,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Measure what ``path`` does not have yet, point by point; how many points the budget (seconds) left out."""
    started = clock()
    done = results.current(case, results.read(path), environment)
    todo = [point for point in points if point not in done]
    with tqdm(todo, desc=case.op, unit="point", disable=None) as progress:
        for i, point in enumerate(progress):
            left = budget - (clock() - started)
            if left <= 0:
                return len(todo) - i
            progress.set_postfix_str(str(point))
            rows = measure(case, point, timer, environment, repeats, left / (len(todo) - i), clock)
            results.append(path, rows)
    return 0
