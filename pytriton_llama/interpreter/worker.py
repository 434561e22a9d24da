"""Launches of compiled kernels, traced: each runs interpreted in a worker process, on copies of its arguments.

Triton decides while it is imported whether a process compiles or interprets, so a process that compiles for a GPU
cannot interpret as well. Its launches can be taken out of it: a kernel is source text, the values that its names stand
for, and the memory of its arguments. The text comes from ``linecache``, as a traceback's does, which knows the cells
of a notebook too. The worker defines the kernel at the same lines of the same file, so errors name the reader's own
line; what the kernel stored is copied back to where the arguments are.

An autotuner with several configurations still times them on the GPU, by launching: give it one, or tune it first.
"""

import ast
import atexit
import inspect
import linecache
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton
from triton.runtime.jit import JITCallable, JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor


class WorkerError(RuntimeError):
    """The worker could not be started, or it died."""


# What travels. A name that stands for something else (a module, a function, a tensor) travels as one of these.


@dataclass(frozen=True)
class Module:
    name: str


@dataclass(frozen=True)
class Imported:
    module: str
    name: str


@dataclass(frozen=True)
class Shipped:
    """A function among those that travel along."""

    index: int


@dataclass
class Function:
    """A jit function as text, and what its names stand for."""

    name: str
    module: str
    file: str
    text: list[str]  # the whole file, or cell
    line: int  # of the def
    decorator: str
    names: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    storage: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Descriptor:
    base: Tensor
    shape: list[int]
    strides: list[int]
    block_shape: list[int]
    padding: str


@dataclass
class Job:
    """One launch."""

    functions: list[Function]
    arguments: dict[str, Any]
    grid: tuple[int, ...]
    storages: list[np.ndarray]  # bytes
    poisons: dict[int, np.ndarray]  # by storage: which bytes have been written
    options: dict[str, Any]


@dataclass
class Outcome:
    """What became of it."""

    launches: list[Any]
    storages: dict[int, np.ndarray]  # those that were stored to
    poisons: dict[int, np.ndarray]
    error: BaseException | None


# ------------------------------------------------------------------------------------------------ packing


class Packer:
    """Turns a launch into a :class:`Job`."""

    def __init__(self) -> None:
        self.functions: list[Function] = []
        self.indices: dict[int, int] = {}
        self.storages: dict[int, tuple[int, torch.UntypedStorage]] = {}

    def function(self, callable: Any) -> Shipped | Imported:
        function = callable.fn
        if (function.__module__ or "").startswith("triton."):
            return Imported(function.__module__, function.__qualname__)
        if id(callable) in self.indices:
            return Shipped(self.indices[id(callable)])
        index = self.indices[id(callable)] = len(self.functions)
        lines, first = inspect.getsourcelines(function)
        node = ast.parse(textwrap.dedent("".join(lines))).body[0]
        assert isinstance(node, ast.FunctionDef)
        file = inspect.getsourcefile(function) or function.__code__.co_filename
        kind = "jit" if isinstance(callable, JITFunction) else "constexpr_function"
        packed = Function(
            function.__name__, function.__module__, file, linecache.getlines(file), first + node.lineno - 1, kind
        )
        self.functions.append(packed)
        known = function.__globals__ | dict(inspect.getclosurevars(function).nonlocals)
        node.decorator_list.clear()
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - set(function.__code__.co_varnames)
        for name in used & known.keys():
            # What cannot travel is left out: only a kernel that really needs it will miss it, by name.
            with suppress(TypeError, AttributeError, pickle.PicklingError):
                packed.names[name] = self.value(known[name])
        return Shipped(index)

    def value(self, value: Any) -> Any:
        if isinstance(value, ModuleType):
            return Module(value.__name__)
        if isinstance(value, JITCallable):
            return self.function(value)
        if isinstance(value, triton.runtime.jit.KernelInterface):  # an autotuner or heuristics around a function
            return self.value(value.fn)
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, TensorDescriptor):
            base = self.tensor(value.base)
            return Descriptor(base, list(value.shape), list(value.strides), list(value.block_shape), value.padding)
        if isinstance(value, list | tuple):
            return (list if isinstance(value, list) else tuple)(map(self.value, value))
        pickle.dumps(value)
        return value

    def tensor(self, tensor: torch.Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        index, _ = self.storages.setdefault(storage.data_ptr(), (len(self.storages), storage))
        return Tensor(index, tensor.dtype, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())


def storage_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """A storage as a tensor of bytes."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


# ------------------------------------------------------------------------------------------------ in this process


_process: subprocess.Popen | None = None
_to_worker: Any = None
_from_worker: Any = None


def _start() -> None:
    """Start the worker, unless it runs."""
    global _process, _to_worker, _from_worker
    if _process is not None and _process.poll() is None:
        return
    job_read, job_write = os.pipe()
    out_read, out_write = os.pipe()
    command = [sys.executable, "-c", "from pytriton_llama.interpreter import worker; worker.serve()"]
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "PYTRITON_LLAMA_WORKER": f"{job_read},{out_write}",
    }
    environment.pop("PYTRITON_LLAMA_FAST_INTERPRETER", None)
    _process = subprocess.Popen(command, env=environment, pass_fds=(job_read, out_write), stdin=subprocess.DEVNULL)
    os.close(job_read)
    os.close(out_write)
    _to_worker, _from_worker = os.fdopen(job_write, "wb"), os.fdopen(out_read, "rb")


@atexit.register
def stop() -> None:
    """End the worker; the next traced launch starts another."""
    global _process
    if _process is not None:
        with suppress(OSError):
            _to_worker.close()
        _process.wait()
        _from_worker.close()
        _process = None


def run(job: Job) -> Outcome:
    """Have the worker do a job. Raises WorkerError if it dies, as a wild address makes it."""
    _start()
    assert _process is not None
    try:
        pickle.dump(job, _to_worker, protocol=5)
        _to_worker.flush()
        return pickle.load(_from_worker)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        code = _process.wait()
        stop()
        raise WorkerError(f"the interpreter's worker process ended with code {code}") from error


@contextmanager
def instead_of_launches(trace: Any) -> Iterator[None]:
    """Send what is launched in the block to the worker, and tell the trace what it saw."""

    def launch(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        if warmup:
            return
        for hook in self.pre_run_hooks:
            hook(*args, **kwargs)
        _send(trace, self, args, kwargs, grid)

    before = JITFunction.run
    JITFunction.run = launch
    try:
        yield
    finally:
        JITFunction.run = before


def _send(trace: Any, kernel: JITFunction, args: tuple, kwargs: dict[str, Any], grid: Any) -> None:
    from pytriton_llama.interpreter import rules

    signature = inspect.signature(kernel.fn)
    rules.check_keywords(kwargs, signature.parameters)
    bound = signature.bind(*args, **{k: v for k, v in kwargs.items() if k in signature.parameters})
    bound.apply_defaults()
    packer = Packer()
    packer.function(kernel)
    arguments = {name: packer.value(value) for name, value in bound.arguments.items()}
    size = tuple(grid(bound.arguments | kwargs) if callable(grid) else grid)
    storages = [storage for _, storage in packer.storages.values()]
    places = {address: index for address, (index, _) in packer.storages.items()}
    job = Job(
        packer.functions,
        arguments,
        size,
        [storage_bytes(s).cpu().numpy() for s in storages],
        {places[address]: p.written for address, p in trace.fresh_poisons().items() if address in places},
        trace.options | {"limit": trace.limit - trace.recorded},
    )
    outcome = run(job)
    trace.launches += outcome.launches
    trace.recorded += sum(a.offsets.size for launch in outcome.launches for a in launch.accesses)
    for index, content in outcome.storages.items():
        storage_bytes(storages[index]).copy_(torch.from_numpy(content))
    for address, index in places.items():
        if index in outcome.poisons:
            trace.poisons[address].written = outcome.poisons[index]
    if outcome.error is not None:
        raise outcome.error


# ------------------------------------------------------------------------------------------------ in the worker


def define(functions: list[Function]) -> list[Any]:
    """The functions, interpreted, at the lines where they stand in their files."""
    defined: list[Any] = []
    spaces: list[dict[str, Any]] = []
    for f in functions:
        linecache.cache[f.file] = (sum(map(len, f.text)), None, f.text, f.file)
        space: dict[str, Any] = {"__name__": f.module}
        for name, value in f.names.items():
            if not isinstance(value, Shipped):
                space[name] = unpack(value, [], defined)
        block = inspect.getblock(f.text[f.line - 1 :])
        tree = ast.parse(textwrap.dedent("".join(block)))
        ast.increment_lineno(tree, f.line - 1)
        exec(compile(tree, f.file, "exec"), space)
        spaces.append(space)
        defined.append(getattr(triton, f.decorator)(space[f.name]))
    for f, space, own in zip(functions, spaces, defined, strict=True):
        space[f.name] = own
        for name, value in f.names.items():
            if isinstance(value, Shipped):
                space[name] = defined[value.index]
    return defined


def unpack(value: Any, storages: list[torch.Tensor], functions: list[Any]) -> Any:
    if isinstance(value, Module):
        return import_module(value.name)
    if isinstance(value, Imported):
        return getattr(import_module(value.module), value.name)
    if isinstance(value, Shipped):
        return functions[value.index]
    if isinstance(value, Tensor):
        storage = storages[value.storage].untyped_storage()
        return torch.empty(0, dtype=value.dtype).set_(storage, value.offset, value.shape, value.stride)
    if isinstance(value, Descriptor):
        base = unpack(value.base, storages, functions)
        return TensorDescriptor(base, value.shape, value.strides, value.block_shape, value.padding)
    if type(value) in (list, tuple):
        return type(value)(unpack(v, storages, functions) for v in value)
    return value


def perform(job: Job, known: dict[bytes, list[Any]]) -> Outcome:
    """Run a job and watch it."""
    from pytriton_llama.interpreter.tracing import Poison, trace

    source = pickle.dumps(job.functions)
    try:
        if source not in known:
            known[source] = define(job.functions)
    except Exception as raised:
        return Outcome([], {}, {}, _portable(raised))
    functions = known[source]
    storages = [torch.from_numpy(content.copy()) for content in job.storages]
    arguments = {name: unpack(value, storages, functions) for name, value in job.arguments.items()}
    error: BaseException | None = None
    with trace(**job.options) as watched:
        for index, written in job.poisons.items():
            tensor = storages[index]
            watched.poisons[tensor.data_ptr()] = Poison(tensor, tensor._version, written.copy())
        poisons = dict(watched.poisons)
        try:
            functions[0][job.grid](**arguments)
        except Exception as raised:
            error = _portable(raised)
    changed = {i: s.numpy() for i, s in enumerate(storages) if not np.array_equal(s.numpy(), job.storages[i])}
    after = {i: poisons[storages[i].data_ptr()].written for i in job.poisons}
    return Outcome(watched.launches, changed, after, error)


def _portable(error: BaseException) -> BaseException:
    """The error itself if it can travel, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def serve() -> None:
    """The worker's main: jobs in, outcomes out, until the other side closes the pipe."""
    read, write = map(int, os.environ.pop("PYTRITON_LLAMA_WORKER").split(","))
    from pytriton_llama import interpreter

    if not interpreter.enable():
        raise WorkerError("the worker's interpreter is off")
    known: dict[bytes, list[Callable]] = {}
    with os.fdopen(read, "rb") as jobs, os.fdopen(write, "wb") as outcomes:
        while True:
            try:
                job = pickle.load(jobs)
            except EOFError:
                return
            pickle.dump(perform(job, known), outcomes, protocol=5)
            outcomes.flush()
