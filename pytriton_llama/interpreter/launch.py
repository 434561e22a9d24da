"""Launches: a loop over the grid that calls the kernel, as a Python function, once a program.

The stock interpreter patches ``triton.language`` before each launch and each nested call, and inspects the kernel's
signature anew; here that happens once.
"""

import dataclasses
import inspect
import operator
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.errors import TritonError
from triton.runtime import interpreter
from triton.tools.tensor_descriptor import TensorDescriptor

from pytriton_llama.interpreter import plans, rules, types, watch
from pytriton_llama.interpreter.affine import Affine, everywhere, scalar
from pytriton_llama.interpreter.blas import one_thread
from pytriton_llama.interpreter.patches import put, replaces
from pytriton_llama.interpreter.types import TensorHandle, kind_of, tensor

builder = interpreter.interpreter_builder
semantic = interpreter.interpreter_semantic

# ------------------------------------------------------------------------------------------------ arguments

_types: dict[Any, tl.dtype] = {}


def _type_of(arg: Any, key: Any) -> tl.dtype:
    found = _types.get(key)
    if found is None:
        found = _types[key] = tl.str_to_ty(triton.runtime.jit.mangle_type(arg), None)
    return found


def convert(name: str, arg: Any) -> Any:
    """The argument as the kernel sees it: pointers and integers are formulas."""
    if isinstance(arg, bool):
        return tensor(everywhere(arg, (1,)), kind_of(tl.int1))
    if isinstance(arg, int):
        dtype = _type_of(arg, (arg >= 1 << 31) + (arg >= 1 << 63) + (arg < -(1 << 31)))
        least, most = types.integer_range(dtype.name)
        if not least <= arg <= most:
            raise ValueError(f"argument {name!r}: {arg} does not fit into 64 bits")
        return tensor(scalar(dtype, arg), kind_of(dtype))
    if hasattr(arg, "data_ptr"):
        dtype = _type_of(arg, arg.dtype)
        pointer = scalar(dtype, arg.data_ptr())
        pointer.origin = name
        return tensor(pointer, kind_of(dtype))
    if isinstance(arg, tuple):
        parts = [convert(f"{name}[{i}]", a) for i, a in enumerate(arg)]
        return type(arg)(*parts) if hasattr(arg, "_fields") else type(arg)(parts)
    if isinstance(arg, TensorDescriptor):
        if arg.strides[-1] != 1:
            raise ValueError(f"argument {name!r}: a descriptor's last stride must be 1, not {arg.strides[-1]}")
        return semantic.make_tensor_descriptor(
            base=convert(name, arg.base),
            shape=[convert(name, n) for n in arg.shape],
            strides=[*(convert(name, n) for n in arg.strides[:-1]), tl.constexpr(1)],
            block_shape=[tl.constexpr(n) for n in arg.block_shape],
            padding_option=arg.padding,
        )
    return arg


def _elsewhere(arg: Any) -> bool:
    """Whether the argument's memory is not this process's."""
    if isinstance(arg, tuple):
        return any(map(_elsewhere, arg))
    if isinstance(arg, TensorDescriptor):
        arg = arg.base
    return hasattr(arg, "data_ptr") and getattr(arg, "base", arg).device.type != "cpu"


# ------------------------------------------------------------------------------------------------ launches


class Kernel:
    """What launches of one kernel have in common."""

    def __init__(self, function: interpreter.InterpretedFunction) -> None:
        rules.check_source(function.fn)
        self.run = function.rewrite()
        self.signature = inspect.signature(function.fn)
        self.names = list(self.signature.parameters)
        annotations = function.fn.__annotations__
        normalize = triton.runtime.jit._normalize_ty
        self.constexprs = {n for n in self.names if n in annotations and normalize(annotations[n]) == "constexpr"}

    def bind(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name. Raises TypeError as a call would."""
        values = dict(zip(self.names, args, strict=False))
        if len(args) > len(self.names) or not values.keys().isdisjoint(kwargs):
            self.signature.bind(*args, **kwargs)
        values.update(kwargs)
        if len(values) < len(self.names):
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = dict(bound.arguments)
        return values


_kernels: dict[Any, Kernel] = {}
_launching = threading.RLock()  # the builder knows one program at a time; launches of other threads wait


def _run(self: interpreter.InterpretedFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """Stands in for ``InterpretedFunction.run``: every launch comes here, also those of autotuners and heuristics."""
    if warmup:
        return
    kernel = _kernels.get(self)
    if kernel is None:
        kernel = _kernels[self] = Kernel(self)
    if kwargs:
        rules.check_keywords(kwargs, kernel.names)
        kwargs = {k: v for k, v in kwargs.items() if k in kernel.names}
    copied = any(map(_elsewhere, args)) or any(map(_elsewhere, kwargs.values()))
    given = args, kwargs
    if copied:
        args, kwargs = interpreter.GridExecutor._init_args_hst(None, args, kwargs)
    for hook in self.pre_run_hooks:
        hook(*args, **kwargs)
    with _launching:
        _launch(self.fn.__name__, kernel, grid, kernel.bind(tuple(args), kwargs))
    if copied:
        interpreter.GridExecutor._restore_args_dev(None, given[0], args, given[1], kwargs)


def _launch(name: str, kernel: Kernel, grid: Any, arguments: dict[str, Any]) -> None:
    plans.check_options(builder.options)
    values = {n: a if n in kernel.constexprs else convert(n, a) for n, a in arguments.items()}
    if callable(grid):
        grid = grid(values)
    if len(grid) > 3:
        raise ValueError(f"a grid has at most 3 dimensions, not {len(grid)}")
    nx, ny, nz = [operator.index(n) for n in grid] + [1] * (3 - len(grid))
    builder.set_grid_dim(nx, ny, nz)
    if watch.observer:
        watch.observer.launch(name, arguments, (nx, ny, nz))
    try:
        with one_thread(), np.errstate(all="ignore"):  # a GPU does not mention infinities either
            for x in range(nx):
                for y in range(ny):
                    for z in range(nz):
                        builder.grid_idx = (x, y, z)
                        kernel.run(**values)
    except (watch.Violation, TritonError):
        raise
    except Exception as error:
        if triton.knobs.compilation.front_end_debugging:
            raise
        raise interpreter.InterpreterError(repr(error)) from error
    if watch.observer:
        watch.observer.finished()


@replaces("create_assert")
def _assert(builder: Any, condition: TensorHandle, message: str) -> None:
    if not condition:
        if watch.observer:
            watch.observer.assertion(message)
        raise AssertionError(message)


_nested: dict[Any, Callable] = {}


def _call(self: interpreter.InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
    """Stands in for ``InterpretedFunction.__call__``: a kernel calls another jit function."""
    function = _nested.get(self)
    if function is None:
        function = self.rewrite()
        if (self.fn.__module__ or "").startswith("triton.language."):  # None: made by exec, outside any module
            function = plans.planned(function)
        else:
            rules.check_source(self.fn)
        _nested[self] = function
    return function(*args, **kwargs)


# ------------------------------------------------------------------------------------------------ triton.language


class _Patched:
    """What ``triton.language`` needs to run interpreted is in place already."""

    def restore(self) -> None:
        pass


def _patch_attr(owner: Any, name: str, member: Callable, builder: Any, scope: Any) -> None:
    function = getattr(member, "__wrapped__", member)
    scope.set_attr(owner, name, plans.planned(function, _semantic=semantic))


def _truth(self: tl.tensor) -> bool:
    """A scalar's value decides Python's ``if``; a block counts as true, as in ``if mask and ...`` of Triton's code."""
    if self.type.is_block() and plans.recorder is not None:
        return True
    plans.peeked()
    data = self.handle.data
    return bool(data) if data.size == 1 else True


def _index(self: tl.tensor) -> int:
    plans.peeked()
    handle = self.handle
    return handle.base if type(handle) is Affine else int(handle.data.reshape(-1)[0])


def _reduce(input: Any, axis: Any, combine_fn: Any, keep_dims: bool = False, **_: Any) -> Any:
    return _combined("create_reduction", input, axis, combine_fn, keep_dims)


def _scan(input: Any, axis: Any, combine_fn: Any, reverse: bool = False, **_: Any) -> Any:
    return _combined("create_scan", input, axis, combine_fn, reverse)


def _combined(name: str, input: Any, axis: Any, combine: Any, flag: bool) -> Any:
    inputs = input if isinstance(input, tuple) else (input,)
    if not all(isinstance(t, tl.tensor) for t in inputs):
        raise ValueError(f"input must be a tensor, got {type(input)}")
    out = getattr(semantic.builder, name)([t.handle for t in inputs], [t.kind for t in inputs], axis, combine, flag)
    outputs = tuple(tl.tensor(handle, type) for handle, type in zip(out[::2], out[1::2], strict=True))
    return outputs if isinstance(input, tuple) else outputs[0]


def _nothing() -> None:
    """Waiting for the previous kernel: launches run one after the other."""


_to_tensor_stock = type(semantic).to_tensor


def _to_tensor(x: Any, check_type: bool = True) -> Any:
    """The interpreter passes every value that a kernel assigns through here."""
    return x if type(x) is tl.tensor else _to_tensor_stock(semantic, x, check_type)


_scope: Any = None


def install() -> None:
    """Patch ``triton.language`` for interpreted kernels, and launches and nested calls."""
    global _scope
    put(interpreter, "_patch_attr", _patch_attr)
    everything = type("Module", (), {"__globals__": {"tl": tl, "core": tl.core}})
    _scope = interpreter._patch_lang(everything)
    for owner, name, value in (
        (tl.tensor, "__bool__", _truth),
        (tl.tensor, "__index__", _index),
        *((module, "reduce", _reduce) for module in (tl, tl.core)),
        *((module, "associative_scan", _scan) for module in (tl, tl.core)),
        *((tl.extra.cuda, name, _nothing) for name in ("gdc_wait", "gdc_launch_dependents")),
    ):
        _scope.set_attr(owner, name, value)
    put(interpreter, "_patch_lang", lambda fn: _Patched())
    put(semantic, "to_tensor", _to_tensor)
    if not builder.options.debug:  # then the results of overflow checks are dropped: do without them
        put(builder, "options", dataclasses.replace(builder.options, sanitize_overflow=False))
    put(interpreter.InterpretedFunction, "run", _run)
    put(interpreter.InterpretedFunction, "__call__", _call)


def uninstall() -> None:
    """Undo what :func:`install` did to ``triton.language``; the rest is on the list of patches."""
    global _scope
    if _scope is not None:
        _scope.restore()
        _scope = None
    _kernels.clear()
    _nested.clear()
