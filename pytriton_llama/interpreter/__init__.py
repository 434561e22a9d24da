"""Triton's interpreter, made fast and watchful.

With ``TRITON_INTERPRET=1`` Triton runs kernels in Python: a program of the grid is a call of the kernel's function, a
block is a numpy array. That is correct (but for bfloat16) and slow, because a block of pointers is an array of
addresses, gathered one by one, and because every operation of every program is type-checked anew. This package replaces
parts of the interpreter while a process runs:

affine    offsets, pointers and masks stay formulas: a base and one step per dimension, a box of indices
memory    a load or store through such a pointer is one strided copy
types     bfloat16 done right; types and shapes looked up, not rebuilt
reductions  what ``tl.sum``, ``tl.reduce`` and scans do
plans     what Triton's front end decides from types alone is decided once
launch    the loop over the grid; ``triton.language`` is patched once
blas      numpy's matrix products stay on one thread
rules     what the compiler refuses and the interpreter forgives
tracing   bytes, bounds, races, overflows, uninitialised memory

The results are the stock interpreter's, bit for bit, except where those are wrong: bfloat16 is computed by value and
rounded to nearest even. (The last bit of a stock ``tl.dot`` depends on how many threads numpy's BLAS has; here it has
one.) What these modules do not understand takes the stock way.

It reads top down: :mod:`affine` is the idea, and says what a block program is.
"""

import os
import warnings
from importlib import import_module
from typing import Any

SUPPORTED = ("3.6.0", "3.7.1", "3.9.0")  # the versions of triton that the tests ran with
SWITCH = "PYTRITON_LLAMA_FAST_INTERPRETER"

__all__ = ["SUPPORTED", "disable", "enable", "enabled"]
_TRACE = ("trace", "Trace", "OutOfBounds", "Race", "Overflow", "AssertionFailed", "Uninitialized")
_enabled = False


def enable() -> bool:
    """Replace parts of Triton's interpreter; imports triton. Returns whether they are replaced now.

    They are not, and the stock interpreter stays, if the environment says ``PYTRITON_LLAMA_FAST_INTERPRETER=0``, if
    triton compiles in this process, or, with a warning, if its version is not among SUPPORTED.
    """
    global _enabled
    if _enabled or os.environ.get(SWITCH) == "0":
        return _enabled
    import triton

    if not triton.knobs.runtime.interpret:
        return False
    if triton.__version__ not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        warnings.warn(f"fast interpreter: off, it knows triton {known}, not {triton.__version__}", stacklevel=2)
        return False
    from triton.runtime.interpreter import InterpreterBuilder

    from pytriton_llama.interpreter import affine, launch, memory, patches, reductions, rules, types  # noqa: F401

    patches.install(InterpreterBuilder)
    types.install()
    rules.install()
    launch.install()
    _enabled = True
    return True


def disable() -> None:
    """Put the stock interpreter back: every attribute that was touched."""
    global _enabled
    if not _enabled:
        return
    from pytriton_llama.interpreter import launch, patches, plans, types

    launch.uninstall()
    patches.restore()
    plans.forget()
    types.forget()
    _enabled = False


def enabled() -> bool:
    return _enabled


def __getattr__(name: str) -> Any:
    # Tracing needs torch and triton, which take seconds to import.
    if name in _TRACE:
        return getattr(import_module("pytriton_llama.interpreter.tracing"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
