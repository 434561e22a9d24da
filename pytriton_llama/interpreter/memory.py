"""Loads and stores: an affine pointer under a box mask is one strided block of memory.

numpy can look at any strided block of this process's memory, so such a load is one copy out of it and such a store
one copy into it. A load always copies: a kernel may store to what it loaded and still use the old values. Pointers
that follow no formula (a gather) and masks that are no box take the interpreter's own way, element by element.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from pytriton_llama.interpreter import watch
from pytriton_llama.interpreter.affine import Affine, Box, formula_of
from pytriton_llama.interpreter.patches import replaces, stock
from pytriton_llama.interpreter.types import Splat, TensorHandle, bf16_to_f32, f32_to_bf16, is_bf16, np_dtype

# All memory that a process can have (47 bits), as one buffer; nothing is touched by making it. It starts after the
# first page: address 0 is no memory, and a view that would begin there is an error instead of a crash.
_FIRST, _END = 4096, 1 << 47
_SPACE: Any = (ctypes.c_char * (_END - _FIRST)).from_address(_FIRST)


def view(address: int, shape: Sequence[int], steps: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """The memory at an address as a writable array; nothing is read."""
    return np.ndarray(shape, dtype, _SPACE, address - _FIRST, steps)


def _reachable(pointer: Affine, itemsize: int) -> bool:
    """Whether a view of the whole block can be made; what a mask switches off may be anywhere, or nowhere."""
    low, high = pointer.span()
    return low >= _FIRST and high + itemsize <= _END


def _element(pointer: TensorHandle) -> tuple[tl.dtype, np.dtype]:
    element = pointer.get_element_ty()
    return element, np_dtype(element)


def _dense_mask(pointer: TensorHandle) -> TensorHandle:
    return TensorHandle(np.ones(pointer.data.shape, np.bool_), tl.int1)


def corner(pointer: Affine, box: Box) -> tuple[int, list[int]]:
    """Address and shape of the part of a block that a box selects."""
    address = pointer.base
    shape = []
    for step, (low, high) in zip(pointer.steps, box.bounds, strict=True):
        address += low * step
        shape.append(high - low)
    return address, shape


# ------------------------------------------------------------------------------------------------ loads


@replaces("create_load")
def load(builder: Any, pointer: TensorHandle, *how: Any) -> TensorHandle:
    if watch.observer:
        watch.observer.load(pointer, None)
    element, dtype = _element(pointer)
    if type(pointer) is Affine:
        return TensorHandle(view(pointer.base, pointer.shape, pointer.steps, dtype).copy(), element)
    return stock["create_masked_load"](builder, pointer, _dense_mask(pointer), None, *how)


@replaces("create_masked_load")
def masked_load(builder: Any, pointer: TensorHandle, mask: Any, other: TensorHandle | None, *how: Any) -> TensorHandle:
    if not isinstance(mask, TensorHandle):  # block pointers pass a bare array
        mask = TensorHandle(np.asarray(mask), tl.int1)
    if watch.observer:
        watch.observer.load(pointer, mask)
    element, dtype = _element(pointer)
    box = formula_of(mask)
    if type(pointer) is not Affine or (mask.data if box is None else box).shape != pointer.shape:
        return stock["create_masked_load"](builder, pointer, mask, other, *how)
    if type(box) is not Box:
        if not _reachable(pointer, dtype.itemsize):
            return stock["create_masked_load"](builder, pointer, mask, other, *how)
        out = _filled(pointer.shape, dtype, other)
        block = view(pointer.base, pointer.shape, pointer.steps, dtype)
        # copyto reads only what the mask selects, unless the result lies between the block's first and last element:
        # then it starts with a copy of all of the block, and what the mask switches off need not be memory.
        if np.may_share_memory(out, block):
            return stock["create_masked_load"](builder, pointer, mask, other, *how)
        np.copyto(out, block, where=mask.data)
    elif box.full:
        out = view(pointer.base, pointer.shape, pointer.steps, dtype).copy()
    elif box.empty:
        out = _filled(pointer.shape, dtype, other)
    else:
        address, shape = corner(pointer, box)
        block = view(address, shape, pointer.steps, dtype)
        out = _framed(block, box, other, dtype)
    return TensorHandle(out, element)


def _filled(shape: Sequence[int], dtype: np.dtype, other: TensorHandle | None) -> np.ndarray:
    if other is None:
        return np.zeros(shape, dtype)
    return np.full(shape, other.value if type(other) is Splat else other.data, dtype)


def _framed(block: np.ndarray, box: Box, other: TensorHandle | None, dtype: np.dtype) -> np.ndarray:
    """A copy of the block inside the box, and ``other`` around it."""
    if block.size < 1 << 14:
        out = _filled(box.shape, dtype, other)
        out[box.slices] = block
        return out
    # Large blocks are written once: first what the box selects, then what surrounds it, slab by slab.
    out = np.empty(box.shape, dtype)
    out[box.slices] = block
    fill = _filled((), dtype, None) if other is None else other.value if type(other) is Splat else other.data
    fill = np.broadcast_to(fill, box.shape)
    for d, (low, high) in enumerate(box.bounds):
        for side in (slice(0, low), slice(high, box.shape[d])):
            slab = (*box.slices[:d], side)
            out[slab] = fill[slab]
    return out


# ------------------------------------------------------------------------------------------------ stores


def one_to_one(pointer: Affine, itemsize: int) -> bool:
    """Whether no two elements overlap (a sufficient test): each step passes over all that the smaller ones reach."""
    reach = itemsize - 1
    for step, n in sorted((abs(s), n) for s, n in zip(pointer.steps, pointer.shape, strict=True) if n > 1):
        if step <= reach:
            return False
        reach += step * (n - 1)
    return True


def _is_block(pointer: TensorHandle, value: TensorHandle, dtype: np.dtype) -> bool:
    return type(pointer) is Affine and value.data.dtype == dtype and one_to_one(pointer, dtype.itemsize)


@replaces("create_store")
def store(builder: Any, pointer: TensorHandle, value: TensorHandle, *how: Any) -> None:
    if watch.observer:
        watch.observer.store(pointer, value, None)
    _, dtype = _element(pointer)
    if _is_block(pointer, value, dtype):
        view(pointer.base, pointer.shape, pointer.steps, dtype)[...] = value.data
    else:
        interpreter._interpreter.store(pointer.data, value.data, _dense_mask(pointer).data)


@replaces("create_masked_store")
def masked_store(builder: Any, pointer: TensorHandle, value: TensorHandle, mask: Any, *how: Any) -> None:
    if not isinstance(mask, TensorHandle):
        mask = TensorHandle(np.asarray(mask), tl.int1)
    if watch.observer:
        watch.observer.store(pointer, value, mask)
    _, dtype = _element(pointer)
    if not _is_block(pointer, value, dtype):
        interpreter._interpreter.store(pointer.data, value.data, mask.data)
        return
    box = formula_of(mask)
    if type(box) is Box and box.shape == pointer.shape == value.data.shape:
        if not box.empty:
            address, shape = corner(pointer, box)
            view(address, shape, pointer.steps, dtype)[...] = value.data[box.slices]
    elif not _reachable(pointer, dtype.itemsize):
        interpreter._interpreter.store(pointer.data, value.data, mask.data)
    else:
        np.copyto(view(pointer.base, pointer.shape, pointer.steps, dtype), value.data, where=mask.data)


# ------------------------------------------------------------------------------------------------ atomics


def _dense(arg: Any) -> Any:
    """The C++ code reads its operands in row order, whatever their strides are, and wants them writeable."""
    return (
        TensorHandle(np.require(arg.data, requirements=["C", "W"]), arg.dtype) if isinstance(arg, TensorHandle) else arg
    )


@replaces("create_atomic_cas")
def atomic_cas(builder: Any, pointer: TensorHandle, *args: Any) -> TensorHandle:
    if watch.observer:
        watch.observer.atomic(pointer, None)
    return stock["create_atomic_cas"](builder, *map(_dense, (pointer, *args)))


@replaces("create_atomic_rmw")
def atomic_rmw(
    builder: Any, op: Any, pointer: TensorHandle, value: TensorHandle, mask: TensorHandle, *how: Any
) -> TensorHandle:
    if watch.observer:
        watch.observer.atomic(pointer, mask)
    if is_bf16(value):
        if op != interpreter._ir.ATOMIC_OP.FADD:
            raise NotImplementedError("the interpreter has no atomic operation on bfloat16 but atomic_add")
        return _atomic_add_bf16(pointer, value, mask)
    return stock["create_atomic_rmw"](builder, op, *map(_dense, (pointer, value, mask)), *how)


def _atomic_add_bf16(pointer: TensorHandle, value: TensorHandle, mask: TensorHandle) -> TensorHandle:
    """Each element added, and rounded, after the one before; returns what was there."""
    addresses, amounts = pointer.data, bf16_to_f32(np.ascontiguousarray(value.data))
    old = np.zeros(addresses.shape, np.uint16)
    for i in np.argwhere(np.broadcast_to(mask.data, addresses.shape)):
        at = tuple(i)
        cell = view(int(addresses[at]), (1,), (2,), old.dtype)
        old[at] = cell[0]
        cell[:] = f32_to_bf16(bf16_to_f32(cell) + amounts[at])
    return TensorHandle(old, value.dtype)


# ------------------------------------------------------------------------------------------------ descriptors


def _number(handle: TensorHandle) -> int:
    return handle.base if type(handle) is Affine else int(handle.data.reshape(-1)[0])


def _window(desc: Any, indices: Sequence[TensorHandle]) -> tuple[Affine, Box]:
    """The block that a descriptor names at these indices, and the part of it that lies inside the tensor."""
    element = desc.base.dtype.element_ty
    size = max(1, element.primitive_bitwidth // 8)
    starts = [_number(i) for i in indices]
    # Triton's own rule, of which hardware makes a fault.
    assert starts[-1] * size % 16 == 0, "block offset start must be 16-byte aligned"
    steps = [_number(s) * size for s in desc.strides]
    block = [int(n) for n in desc.block_shape]
    address = _number(desc.base) + sum(i * s for i, s in zip(starts, steps, strict=True))
    pointer = Affine(
        tl.pointer_type(element), address, [s if n > 1 else 0 for s, n in zip(steps, block, strict=True)], block
    )
    pointer.origin = desc.base.__dict__.get("origin")
    inside = [
        (max(0, -start), min(n, _number(size) - start))
        for start, n, size in zip(starts, block, desc.shape, strict=True)
    ]
    return pointer, Box([(low, max(low, high)) for low, high in inside], block)


@replaces("create_descriptor_load")
def descriptor_load(builder: Any, desc: Any, indices: Sequence[TensorHandle], *how: Any) -> TensorHandle:
    if getattr(desc, "round_f32_to_tf32", False) or len(indices) != len(desc.block_shape):
        return stock["create_descriptor_load"](builder, desc, indices, *how)
    pointer, box = _window(desc, indices)
    other = None
    if desc.padding == interpreter._ir.PADDING_OPTION.PAD_NAN:
        element = pointer.get_element_ty()
        nan = np.array([0x7FC0], np.uint16) if element.is_bf16() else np.array([np.nan], np_dtype(element))
        other = Splat(nan, element, pointer.shape)
    return masked_load(builder, pointer, box, other, *how)


@replaces("create_descriptor_store")
def descriptor_store(builder: Any, desc: Any, value: TensorHandle, indices: Sequence[TensorHandle]) -> None:
    if len(indices) != len(desc.block_shape):
        return stock["create_descriptor_store"](builder, desc, value, indices)
    pointer, box = _window(desc, indices)
    block = TensorHandle(value.data.reshape(pointer.shape), value.dtype)
    return masked_store(builder, pointer, block, box)
