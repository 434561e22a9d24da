"""One thread for numpy's matrix products while a kernel runs.

numpy's wheels bring OpenBLAS, whose threads wait for each other busily. For the small products of a tile the threads
gain little, and where another process wants a core they wait for milliseconds: ten times slower, measured with two test
processes on two cores. A program of a grid is one thread of control here, and nothing else.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np

_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What reads and what sets the number of threads; None if numpy computes with another library."""
    package = Path(np.__file__).parent
    for path in (*package.with_name("numpy.libs").glob("*openblas*"), *package.glob(".dylibs/*openblas*")):
        with suppress(OSError):
            library = ctypes.CDLL(str(path))  # numpy has loaded it: this finds it again
            for name in _NAMES:
                if hasattr(library, name.format("set")):
                    return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block numpy multiplies matrices on the thread that asks for it."""
    found = _openblas()
    if found is None:
        yield
        return
    read, write = found
    before = read()
    write(1)
    try:
        yield
    finally:
        write(before)
