"""Exercises with automatic verdicts.

A notebook NN has its checkers in ``course/exercises/eNN_*.py``. A checker takes the reader's answer, tries it in stages
from the plainest up, and yields for each stage whether it passed and the hint to give if not:

    @exercise("00.a", "bytes of a vector add")
    def bytes_of_add(answer):
        yield answer(1) == 12, "one element: two loads and one store of 4 bytes"
        yield answer(1000) == 12000, "…"

Where a kernel is asked for, the answer is called through :func:`watched`: an access outside of a tensor is then a hint,
not the end of a GPU's context, and so is an answer that launches no kernel.
"""

import pkgutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pytriton_llama.bench.check import poisoned
from pytriton_llama.course.check import difference
from pytriton_llama.course.traffic import FAULTS
from pytriton_llama.interpreter import trace
from pytriton_llama.interpreter.watch import Violation

Answer = Callable[..., Any]
Checker = Callable[[Answer], Iterator[tuple[bool, str]]]


@dataclass(frozen=True)
class Exercise:
    key: str
    title: str
    checker: Checker


EXERCISES: dict[str, Exercise] = {}


class NotSolved(Exception):
    """The answer is still the stub, which returns None."""


class NoKernel(Exception):
    """The answer was to launch a kernel, and did not."""


def exercise(key: str, title: str) -> Callable[[Checker], Checker]:
    """Register a checker under a key such as ``00.a``."""

    def register(checker: Checker) -> Checker:
        EXERCISES[key] = Exercise(key, title, checker)
        return checker

    return register


def watched(answer: Answer, *args: Any) -> Any:
    """``answer(*args)`` with its kernels watched, a view's memory ending where the view ends, ``torch.empty`` NaN.

    At least one kernel has to be launched; one whose grid is empty counts.
    """
    # The switch that fills torch.empty with NaN also warns of torch's own nondeterminism.
    with trace(extent="view") as t, poisoned(), warnings.catch_warnings(action="ignore"):
        result = answer(*args)
    if not t.launches:
        raise NoKernel
    return result


def agrees(actual: Any, expected: Any) -> bool:
    """Whether a result is what was expected in float64, within the tolerance of its dtype."""
    return difference(actual, expected) is None


def grade(answer: Answer, key: str) -> None:
    """Print ☑ if the answer is right, else ☐ and a hint for the first stage that it fails.

    Never raises on account of the answer. An answer that returns None counts as not begun.
    """
    this = _exercise(key)
    words = failure(answer, this)
    print(f"☐ {key} {this.title}: {words}" if words else f"☑ {key} {this.title}")


def failure(answer: Answer, this: Exercise) -> str:
    """Where the answer fails, in words; empty if it is right."""

    def begun(*args: Any) -> Any:
        result = answer(*args)
        if result is None:
            raise NotSolved
        return result

    stage = 0
    try:
        for stage, (passed, hint) in enumerate(this.checker(begun), 1):
            if not passed:
                return f"hint {stage}: {hint}"
    except (NotSolved, NotImplementedError):
        return "not solved yet"
    except NoKernel:
        return f"hint {stage + 1}: no kernel of yours was launched"
    except Violation as fault:
        return f"hint {stage + 1}: caught: {FAULTS[type(fault)]}"
    except Exception as error:  # whatever a reader's function raises
        return f"hint {stage + 1}: it raises {type(error).__name__}: {error}"
    return ""


def _exercise(key: str) -> Exercise:
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith(f"e{key[:2]}_"):
            import_module(f"{__name__}.{module.name}")
    if key not in EXERCISES:
        raise KeyError(f"no exercise {key!r}; known: {', '.join(EXERCISES)}")
    return EXERCISES[key]
