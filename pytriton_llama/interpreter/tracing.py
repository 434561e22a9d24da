"""Watch what interpreted kernels do to memory: how much, and whether they may.

    with trace() as t:
        kernel[grid](...)
    t.bytes_loaded, t.bytes_stored      # of every launch in the block
    t.launches[0].loaded["x_ptr"]       # bytes, by argument
    t.launches[0].touched("x_ptr", program=(2, 0, 0))    # which elements: for a figure

A kernel that does what would be wrong on a GPU raises at the line that does it:

OutOfBounds      a load, store or atomic outside the memory of the argument whose pointer it used (where the interpreter
                 lost track of that: outside every argument's). Elements that a mask switches off do not count, nor
                 does memory whose address the kernel loaded: no argument says where that ends.
                 ``extent="view"`` narrows the memory from the storage behind the argument to what its shape and
                 strides reach.
Race             two programs of one launch store to one address, or one loads what another stores, or a store gives one
                 address two values. A program that has executed an atomic may hold a lock, and is believed.
Overflow         an int32 offset that wrapped around is added to a pointer.
AssertionFailed  a ``tl.device_assert`` does not hold.
Uninitialized    a load of memory that nothing has written: of tensors that ``torch.empty`` and its relatives make in
                 the block, and of those given to ``t.poison``. Any torch operation that writes to such a tensor counts
                 as writing all of it; writes through numpy or ctypes are not seen. Tensors made in torch's inference
                 mode are taken for written: torch does not count what it writes to them.

Each of them is switched off by an argument of :func:`trace`. Where the process compiles for a GPU, each launch in the
block runs in a worker process instead, interpreted, on copies in the CPU's memory that are copied back
(:mod:`pytriton_llama.interpreter.worker`).
"""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton
from torch.overrides import TorchFunctionMode
from triton.runtime import interpreter
from triton.tools.tensor_descriptor import TensorDescriptor

from pytriton_llama.interpreter import watch
from pytriton_llama.interpreter.affine import ELSEWHERE, Affine, Box, formula_of
from pytriton_llama.interpreter.memory import corner, one_to_one, view
from pytriton_llama.interpreter.watch import Violation

Program = tuple[int, int, int]
BYTE, PROGRAM = np.dtype(np.bool_), np.dtype(np.int32)
_ATOMIC = -1


class OutOfBounds(Violation, IndexError):
    """An access outside the argument's memory."""


class Race(Violation, RuntimeError):
    """The result depends on which program runs first."""


class Overflow(Violation, OverflowError):
    """An offset wrapped around."""


class AssertionFailed(Violation, AssertionError):
    """A ``tl.device_assert`` that does not hold."""


class Uninitialized(Violation, RuntimeError):
    """A load of memory that nothing has written."""


# ------------------------------------------------------------------------------------------------ what was accessed


@dataclass(frozen=True)
class Block:
    """Addresses of the elements of one access: a strided block, or a list of them where they follow no formula."""

    item: int  # bytes of an element
    address: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    scattered: np.ndarray | None = None  # int64 addresses

    @classmethod
    def selected(cls, pointer: Any, mask: Any) -> "Block":
        """What a mask selects of a block of pointers."""
        item = max(1, pointer.get_element_ty().primitive_bitwidth // 8)
        box = None if mask is None else formula_of(mask)
        if type(pointer) is Affine:
            if mask is None:
                return cls(item, pointer.base, pointer.shape, pointer.steps)
            if type(box) is Box and box.shape == pointer.shape:
                address, shape = corner(pointer, box)
                return cls(item, address, tuple(shape), pointer.steps)
        addresses = pointer.data.astype(np.int64)
        addresses = addresses.reshape(-1) if mask is None else addresses[np.broadcast_to(mask.data, addresses.shape)]
        return cls(item, 0, (), (), addresses)

    @property
    def count(self) -> int:
        if self.scattered is not None:
            return self.scattered.size
        out = 1
        for n in self.shape:
            out *= n
        return out

    def span(self) -> tuple[int, int]:
        """First byte, and the one after the last; of a block that is not empty."""
        if self.scattered is not None:
            return int(self.scattered.min()), int(self.scattered.max()) + self.item
        low = high = self.address
        for step, n in zip(self.steps, self.shape, strict=True):
            if step < 0:
                low += step * (n - 1)
            else:
                high += step * (n - 1)
        return low, high + self.item

    def addresses(self) -> np.ndarray:
        if self.scattered is not None:
            return self.scattered
        out = np.full((1,) * len(self.shape), self.address, np.int64)
        for d, (step, n) in enumerate(zip(self.steps, self.shape, strict=True)):
            out = out + (np.arange(n) * step).reshape([-1 if e == d else 1 for e in range(len(self.shape))])
        return np.broadcast_to(out, self.shape).reshape(-1)


@dataclass
class Extent:
    """The memory that an argument stands for."""

    name: str
    tensor: torch.Tensor
    storage: int  # address of the storage behind it
    nbytes: int
    start: int  # what may be touched
    end: int

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor, whole_storage: bool) -> "Extent":
        storage, base = tensor.untyped_storage(), tensor.data_ptr()
        first, nbytes = storage.data_ptr(), storage.nbytes()
        if whole_storage:
            return cls(name, tensor, first, nbytes, first, first + nbytes)
        last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else -1
        return cls(name, tensor, first, nbytes, base, base + (last + 1) * tensor.element_size())

    def holds(self, low: int, high: int) -> bool:
        return self.start <= low and high <= self.end

    def offsets(self, addresses: np.ndarray) -> np.ndarray:
        return (addresses - self.tensor.data_ptr()) // self.tensor.element_size()

    def __str__(self) -> str:
        return f"argument {self.name!r} ({str(self.tensor.dtype).removeprefix('torch.')} {tuple(self.tensor.shape)})"


@dataclass
class Access:
    """One load, store or atomic of one program."""

    kind: str
    program: Program
    argument: str
    offsets: np.ndarray  # in elements from the argument's first


@dataclass
class Launch:
    """What one launch did. ``loaded`` and ``stored`` are bytes by argument; an atomic counts as a store."""

    kernel: str
    grid: Program
    loaded: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    accesses: list[Access] = field(default_factory=list)
    complete: bool = True  # False once `accesses` was cut short

    @property
    def bytes_loaded(self) -> int:
        return sum(self.loaded.values())

    @property
    def bytes_stored(self) -> int:
        return sum(self.stored.values())

    def touched(self, argument: str, kind: str | None = None, program: Program | None = None) -> np.ndarray:
        """Offsets, in elements, that the launch (or one program of it) loaded, stored or updated in an argument."""
        found = [
            a.offsets
            for a in self.accesses
            if a.argument == argument and kind in (None, a.kind) and program in (None, a.program)
        ]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


@dataclass
class Poison:
    """Which bytes of a tensor's storage have been written."""

    tensor: torch.Tensor  # kept, so that its address is not given to another one
    version: int
    written: np.ndarray


# ------------------------------------------------------------------------------------------------ the observer


class Trace:
    """See the module. Made by :func:`trace`."""

    def __init__(self, bounds: bool, races: bool, overflow: bool, uninitialized: bool, extent: str, limit: int) -> None:
        if extent not in ("storage", "view"):
            raise ValueError(f"extent must be 'storage' or 'view', not {extent!r}")
        self.bounds, self.races, self.overflows, self.uninitialized = bounds, races, overflow, uninitialized
        self.whole_storage, self.limit = extent == "storage", limit
        self.options = {
            "bounds": bounds,
            "races": races,
            "overflow": overflow,
            "uninitialized": uninitialized,
            "extent": extent,
        }
        self.launches: list[Launch] = []
        self.recorded = 0
        self.poisons: dict[int, Poison] = {}

    @property
    def bytes_loaded(self) -> int:
        return sum(launch.bytes_loaded for launch in self.launches)

    @property
    def bytes_stored(self) -> int:
        return sum(launch.bytes_stored for launch in self.launches)

    def summary(self) -> str:
        loaded, stored = self.bytes_loaded, self.bytes_stored
        return f"{len(self.launches)} launches, {loaded:,} bytes loaded, {stored:,} bytes stored"

    def poison(self, tensor: torch.Tensor) -> torch.Tensor:
        """Hold the tensor for unwritten: a load of it before a store raises Uninitialized. Returns the tensor."""
        storage = tensor.untyped_storage()
        written = np.ones(storage.nbytes(), np.bool_)
        reach = Extent.of("", tensor, whole_storage=False)
        written[reach.start - reach.storage : reach.end - reach.storage] = False
        self.poisons[storage.data_ptr()] = Poison(tensor, tensor._version, written)
        return tensor

    def fresh_poisons(self) -> dict[int, Poison]:
        """By address, the storages that torch has not written to since they were poisoned."""
        self.poisons = {a: p for a, p in self.poisons.items() if p.tensor._version == p.version}
        return self.poisons

    # -------------------------------------------------------------------------------------- called by the interpreter

    def launch(self, name: str, arguments: dict[str, Any], grid: Program) -> None:
        self.now = Launch(name, grid)
        self.launches.append(self.now)
        self.extents: dict[str, Extent] = {}
        self.writers: dict[int, np.ndarray] = {}  # by storage: 1 + the program that stored each granule
        self.granules: dict[int, int] = {}  # by storage: bytes of the smallest element it is seen as
        self.loads: list[tuple[Extent, Block, int, str]] = []
        self.synchronised: set[int] = set()  # programs that executed an atomic
        for argument, value in arguments.items():
            self._declare(argument, value)

    def _declare(self, name: str, value: Any) -> None:
        if isinstance(value, TensorDescriptor):
            # More than the tensor that it starts at, where it has a second one further up.
            value = value.base.as_strided(value.shape, value.strides)
        if isinstance(value, triton.runtime.jit.TensorWrapper):
            value = value.base
        if isinstance(value, torch.Tensor):
            extent = self.extents[name] = Extent.of(name, value, self.whole_storage)
            item = value.element_size()
            self.granules[extent.storage] = min(item, self.granules.get(extent.storage, item))
            poison = self.poisons.get(extent.storage)
            if poison is not None and poison.tensor._version != poison.version:  # torch wrote to it
                del self.poisons[extent.storage]
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                self._declare(f"{name}[{i}]", part)

    def finished(self) -> None:
        """A load that came before another program's store or atomic: on a GPU it may come after."""
        for extent in self.extents.values():
            poison = self.poisons.get(extent.storage)
            if poison is not None and poison.written.all():
                del self.poisons[extent.storage]
        for extent, block, me, where in self.loads:
            writers = self.writers.get(extent.storage)
            if writers is None or me in self.synchronised:
                continue
            last = self._granules(writers, extent, block)[0]
            clash = (last != 0) & (last != me)
            if clash.any():
                other = int(last[clash][0])
                who = "an atomic updates" if other < 0 else f"program {self._program(other)} stores to"
                raise Race(
                    f"kernel {self.now.kernel}, {where}, program {self._program(me)}: loads "
                    f"{int(clash.any(-1).sum())} elements of {extent} that {who}"
                )

    def load(self, pointer: Any, mask: Any) -> None:
        found = self._access("load", pointer, mask, self.now.loaded)
        if found:
            extent, block = found
            if self.races:
                self._conflict("loads from", extent, block, mark=None)
                if len(self.loads) < self.limit and not block.item % self.granules[extent.storage]:
                    self.loads.append((extent, block, self._me(), self._line()))
            self._initialized(extent, block)

    def store(self, pointer: Any, value: Any, mask: Any) -> None:
        found = self._access("store", pointer, mask, self.now.stored)
        if found:
            extent, block = found
            if self.races:
                self._conflict("stores to", extent, block, mark=self._me())
                if block.scattered is not None or not one_to_one(pointer, block.item):
                    self._one_value(extent, pointer, value, mask)
            self._mark_written(extent, block)

    def atomic(self, pointer: Any, mask: Any) -> None:
        found = self._access("atomic", pointer, mask, self.now.stored)
        if found:
            extent, block = found
            if self.races:
                self._conflict("updates", extent, block, mark=_ATOMIC)
                self.synchronised.add(self._me())
            self._initialized(extent, block)

    def overflow(self, wrapped: str) -> None:
        if self.overflows:
            raise Overflow(f"{self.where()}: adds an offset to a pointer that wrapped around int32 at {wrapped}")

    def assertion(self, message: str) -> None:
        raise AssertionFailed(f"{self.where()}: {message}")

    # -------------------------------------------------------------------------------------- bounds

    def _access(self, kind: str, pointer: Any, mask: Any, counter: Counter[str]) -> tuple[Extent, Block] | None:
        """Count the bytes and check the bounds. None if there is nothing to check further."""
        block = Block.selected(pointer, mask)
        if not block.count:
            return None
        low, high = block.span()
        origin = pointer.__dict__.get("origin")
        extent = self.extents.get(origin)
        known = extent is not None
        if extent is None:
            extent = next((e for e in self.extents.values() if e.holds(low, high)), None)
        counter[extent.name if extent else ELSEWHERE] += block.count * block.item
        self.now.operations[kind] += 1
        if extent is None or not extent.holds(low, high):
            if self.bounds and origin != ELSEWHERE:
                self._out_of_bounds(kind, block, extent if known else None)
            return None
        if self.recorded + block.count <= self.limit:
            self.recorded += block.count
            offsets = extent.offsets(block.addresses())
            self.now.accesses.append(Access(kind, interpreter.interpreter_builder.grid_idx, extent.name, offsets))
        else:
            self.now.complete = False
        return extent, block

    def _out_of_bounds(self, kind: str, block: Block, extent: Extent | None) -> None:
        addresses = block.addresses()
        inside = np.zeros(addresses.shape, np.bool_)
        for e in [extent] if extent else self.extents.values():
            inside |= (addresses >= e.start) & (addresses + block.item <= e.end)
        bad = addresses[~inside]
        if not bad.size:  # several arguments, each element inside one of them
            return
        what = "every argument"
        nearest = extent
        if extent is None and self.extents:
            nearest = min(self.extents.values(), key=lambda e: abs(int(bad[0]) - e.tensor.data_ptr()))
            what = f"every argument; nearest is {nearest}"
        elif extent is not None:
            what = str(extent)
        offsets = nearest.offsets(bad) if nearest else bad
        some = ", ".join(map(str, offsets[:4])) + (", ..." if offsets.size > 4 else "")
        raise OutOfBounds(
            f"{self.where()}: {kind} of {bad.size} of {addresses.size} elements outside {what}: "
            f"element offsets {some} (lowest {offsets.min()}, highest {offsets.max()})"
        )

    # -------------------------------------------------------------------------------------- races

    def _me(self) -> int:
        """1 + the number of the program that is running."""
        (x, y, z), (nx, ny, _) = interpreter.interpreter_builder.grid_idx, self.now.grid
        return 1 + x + nx * (y + ny * z)

    def _program(self, me: int) -> Program:
        nx, ny, _ = self.now.grid
        return ((me - 1) % nx, (me - 1) // nx % ny, (me - 1) // (nx * ny))

    def _granules(self, shadow: np.ndarray, extent: Extent, block: Block) -> tuple[np.ndarray, Any]:
        """The shadow's cells for the block's elements, and how to index the shadow for writing to them.

        The last axis runs over the granules of one element.
        """
        granule, size = self.granules[extent.storage], shadow.itemsize
        parts = max(1, block.item // granule)
        if block.scattered is not None:
            index = ((block.scattered - extent.storage) // granule)[:, None] + np.arange(parts)
            return shadow[index], (shadow, index)
        first = (block.address - extent.storage) // granule
        steps = [size * (s // granule) for s in block.steps]
        cells = view(shadow.ctypes.data + size * first, (*block.shape, parts), (*steps, size), shadow.dtype)
        return cells, (cells, Ellipsis)

    def _conflict(self, doing: str, extent: Extent, block: Block, mark: int | None) -> None:
        """Compare with, and where a mark is given set, the program that last stored each element."""
        writers = self.writers.get(extent.storage)
        if block.item % self.granules[extent.storage]:  # a part of what the argument's elements are: not told apart
            return
        if writers is None:
            if mark is None:
                return
            # Pages of zeros cost nothing until they are touched.
            writers = self.writers[extent.storage] = np.zeros(extent.nbytes // self.granules[extent.storage], PROGRAM)
        last, (shadow, index) = self._granules(writers, extent, block)
        me = self._me()
        if me not in self.synchronised:
            clash = (last != 0) & (last != me)
            if mark == _ATOMIC:
                clash &= last != _ATOMIC
            if clash.any():
                other = int(last[clash][0])
                who = "an atomic updated" if other < 0 else f"program {self._program(other)} stored to"
                raise Race(f"{self.where()}: {doing} {int(clash.any(-1).sum())} elements of {extent} that {who}")
        if mark is not None:
            shadow[index] = mark

    def _one_value(self, extent: Extent, pointer: Any, value: Any, mask: Any) -> None:
        """Raise Race if one store gives one address two values."""
        keep = ... if mask is None else np.broadcast_to(mask.data, pointer.data.shape)
        addresses = pointer.data[keep].reshape(-1)
        values = np.broadcast_to(value.data, pointer.data.shape)[keep].reshape(-1)
        order = np.argsort(addresses, kind="stable")
        same = addresses[order][1:] == addresses[order][:-1]
        differs = values[order][1:].view(f"u{values.itemsize}") != values[order][:-1].view(f"u{values.itemsize}")
        if (same & differs).any():
            raise Race(f"{self.where()}: one store gives an address of {extent} two values")

    # -------------------------------------------------------------------------------------- uninitialised memory

    def _bytes(self, poison: Poison, extent: Extent, block: Block) -> tuple[np.ndarray, Any]:
        if block.scattered is not None:
            index = (block.scattered - extent.storage)[:, None] + np.arange(block.item)
            return poison.written[index], (poison.written, index)
        start = poison.written.ctypes.data + block.address - extent.storage
        cells = view(start, (*block.shape, block.item), (*block.steps, 1), BYTE)
        return cells, (cells, Ellipsis)

    def _initialized(self, extent: Extent, block: Block) -> None:
        poison = self.poisons.get(extent.storage)
        if poison is None or not self.uninitialized:
            return
        unwritten = ~self._bytes(poison, extent, block)[0].all(-1).reshape(-1)
        if unwritten.any():
            offsets = extent.offsets(block.addresses()[unwritten])
            some = ", ".join(map(str, offsets[:4])) + (", ..." if offsets.size > 4 else "")
            raise Uninitialized(
                f"{self.where()}: loads {offsets.size} elements of {extent} that nothing has written: "
                f"element offsets {some}"
            )

    def _mark_written(self, extent: Extent, block: Block) -> None:
        poison = self.poisons.get(extent.storage)
        if poison is not None:
            _, (shadow, index) = self._bytes(poison, extent, block)
            shadow[index] = True

    # -------------------------------------------------------------------------------------- words

    def _line(self) -> str:
        """Where the kernel is."""
        frame: Any = sys._getframe(1)
        while frame and frame.f_code.co_filename.startswith(_NOT_KERNELS):
            frame = frame.f_back
        if frame is None:
            return "?"
        return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"

    def where(self) -> str:
        return f"kernel {self.now.kernel}, {self._line()}, program {interpreter.interpreter_builder.grid_idx}"


_NOT_KERNELS = (os.path.dirname(triton.__file__) + os.sep, os.path.dirname(__file__) + os.sep)


class _EmptyTensors(TorchFunctionMode):
    """Poisons what torch allocates without writing to it."""

    makers = (
        torch.empty,
        torch.empty_like,
        torch.empty_permuted,
        torch.empty_strided,
        torch.Tensor.new_empty,
        torch.Tensor.new_empty_strided,
    )

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self.makers and out.device.type != "meta" and out.layout == torch.strided and not out.is_inference():
            self.trace.poison(out)
        return out


@contextmanager
def trace(
    bounds: bool = True,
    races: bool = True,
    overflow: bool = True,
    uninitialized: bool = True,
    extent: str = "storage",
    limit: int = 1 << 20,
) -> Iterator[Trace]:
    """Watch the launches in the block; see the module for what is raised.

    ``limit`` is how many elements ``touched`` keeps, over all launches.
    Raises RuntimeError where the fast interpreter is off: it is what can be watched.
    """
    from pytriton_llama.interpreter import enabled

    observer = Trace(bounds, races, overflow, uninitialized, extent, limit)
    if not triton.knobs.runtime.interpret:
        from pytriton_llama.interpreter import worker

        with worker.instead_of_launches(observer), _EmptyTensors(observer) if uninitialized else nullcontext():
            yield observer
        return
    if not enabled():
        raise RuntimeError("trace needs the fast interpreter: call pytriton_llama.interpreter.enable()")
    builder = interpreter.interpreter_builder
    before, options = watch.observer, builder.options
    # device_assert is compiled in only with debug; the front end's own overflow checks would be slower than ours.
    builder.options = dataclasses.replace(options, debug=True, sanitize_overflow=False)
    watch.observer = observer
    try:
        with _EmptyTensors(observer) if uninitialized else nullcontext():
            yield observer
    finally:
        watch.observer, builder.options = before, options
