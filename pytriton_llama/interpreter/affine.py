"""Blocks that are formulas: offsets, pointers and masks that never become arrays.

A program of a kernel works on blocks, but most integer blocks of a kernel are very regular. In ::

    x_ptr + rows[:, None] * stride + cols[None, :]

element (i, j) is ``base + stride * i + 1 * j``: one base and one step per dimension say it all. :class:`Affine` is that
formula, and the operations kernels compute offsets with (``arange``, broadcasting, ``+ - *``, pointer arithmetic) map
formulas to formulas. A mask such as ``rows < M`` is the set of indices in a :class:`Box`, and ``&`` intersects boxes.
The memory behind an affine pointer under a box is one strided block (:mod:`pytriton_llama.interpreter.memory`).

Both are handles like any other: ``.data`` is the array, made when something outside these rules asks for it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton.language as tl

from pytriton_llama.interpreter import watch
from pytriton_llama.interpreter.patches import replaces, stock
from pytriton_llama.interpreter.types import Splat, TensorHandle, integer_range, np_dtype

ADDRESSES = 1 << 64
ELSEWHERE = "?"  # the origin of a pointer to memory that the kernel was given no argument for


class Affine(TensorHandle):
    """``base + sum(steps[d] * index[d])``, of an integer type or, in bytes, of a pointer type.

    A dimension of one element has step 0: it may be broadcast.
    """

    origin: str | None = None  # of a pointer: the argument of the kernel that it was derived from
    wrapped: str | None = None  # of an integer, while traced: where it, or what it was computed from, wrapped around

    def __init__(self, dtype: tl.dtype, base: int, steps: Sequence[int], shape: Sequence[int]) -> None:
        self.dtype, self.base = dtype, base
        self.attr: dict = {}
        self.steps, self.shape = tuple(steps), tuple(shape)
        self._data: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        if self._data is None:
            kind = np_dtype(self.dtype)
            base = self.base % ADDRESSES if self.dtype.is_ptr() else self.base
            out = np.full((1,) * len(self.shape), base, kind)
            for d, (step, n) in enumerate(zip(self.steps, self.shape, strict=True)):
                if step and n > 1:
                    ramp = (np.arange(n, dtype=np.uint64) * np.uint64(step % ADDRESSES)).astype(kind)
                    out = out + ramp.reshape([n if e == d else 1 for e in range(len(self.shape))])
            # A broadcast view could not be written to, which the interpreter's C++ code insists on.
            self._data = out if out.shape == self.shape else np.broadcast_to(out, self.shape).copy()
        return self._data

    def span(self) -> tuple[int, int]:
        """Lowest and highest element."""
        low = high = self.base
        for step, n in zip(self.steps, self.shape, strict=True):
            if step < 0:
                low += step * (n - 1)
            else:
                high += step * (n - 1)
        return low, high

    @property
    def constant(self) -> bool:
        return not any(self.steps)


class Box(TensorHandle):
    """A mask that is true where ``low <= index[d] < high`` in every dimension d."""

    def __init__(self, bounds: Sequence[tuple[int, int]], shape: Sequence[int]) -> None:
        self.bounds, self.shape = tuple(bounds), tuple(shape)
        self.dtype = tl.int1
        self.attr: dict = {}
        self.empty = any(low >= high for low, high in self.bounds)
        self.full = not self.empty and all(b == (0, n) for b, n in zip(self.bounds, self.shape, strict=True))
        self._data: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        if self._data is None:
            if self.full:
                self._data = np.ones(self.shape, np.bool_)
            else:
                self._data = np.zeros(self.shape, np.bool_)
                if not self.empty:
                    self._data[self.slices] = True
        return self._data

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(low, high) for low, high in self.bounds)


Formula = Affine | Box


def everywhere(verdict: bool, shape: Sequence[int]) -> Box:
    """The mask that is the same everywhere."""
    return Box([(0, n if verdict else 0) for n in shape], shape)


def scalar(dtype: tl.dtype, value: int) -> Affine:
    return Affine(dtype, value, (0,), (1,))


def formula_of(handle: TensorHandle) -> Formula | None:
    """The handle as a formula: what is one already, and any single integer or boolean; None for the rest."""
    if type(handle) is Affine or type(handle) is Box:
        return handle
    data = handle.data
    if data.size == 1:
        if data.dtype.kind in "iu" and not handle.dtype.scalar.is_floating():  # bfloat16 lives in uint16
            out = Affine(handle.dtype, int(data.flat[0]), (0,) * data.ndim, data.shape)
            _inherit(out, handle)
            return out
        if data.dtype.kind == "b":
            return everywhere(bool(data.flat[0]), data.shape)
    return None


def _inherit(out: TensorHandle, *sources: TensorHandle) -> TensorHandle:
    """Pass on what is known about where the operands came from; of two different origins neither."""
    for source in sources:
        known = source.__dict__
        origin = known.get("origin")
        if origin is not None:
            out.origin = origin if out.__dict__.get("origin", origin) == origin else None
        if known.get("wrapped") is not None:
            out.wrapped = known["wrapped"]
    return out


def affine_integer(dtype: tl.dtype, base: int, steps: Sequence[int], shape: Sequence[int]) -> Affine | None:
    """The formula, or None where an element would not fit into the type: then numpy wraps it around, as a GPU does."""
    out = Affine(dtype, base, steps, shape)
    low, high = out.span()
    least, most = integer_range(dtype.name)
    return out if least <= low and high <= most else None


# ------------------------------------------------------------------------------------------------ constants


def _integer_constant(name: str, dtype: tl.dtype) -> None:
    least, most = integer_range(name)

    @replaces(f"get_{name}")
    def constant(builder: Any, value: int) -> TensorHandle:
        return scalar(dtype, int(value)) if least <= value <= most else stock[f"get_{name}"](builder, value)


for _name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
    _integer_constant(_name, getattr(tl, _name))


@replaces("get_int1")
def boolean_constant(builder: Any, value: bool) -> Box:
    return everywhere(bool(value), (1,))


@replaces("get_null_value")
def null(builder: Any, type: tl.dtype) -> TensorHandle:
    if type.is_int() and type.name != "int1":
        return scalar(type, 0)
    return stock["get_null_value"](builder, type)


@replaces("create_get_program_id")
def program_id(builder: Any, axis: int) -> Affine:
    return scalar(tl.int32, builder.grid_idx[axis])


@replaces("create_get_num_programs")
def num_programs(builder: Any, axis: int) -> Affine:
    return scalar(tl.int32, builder.grid_dim[axis])


@replaces("create_make_range")
def make_range(builder: Any, ret_ty: Any, start: int, stop: int) -> Affine:
    return Affine(tl.int32, start, (1 if stop - start > 1 else 0,), (stop - start,))


# ------------------------------------------------------------------------------------------------ shapes


@replaces("create_splat")
def splat(builder: Any, ret_ty: tl.block_type, arg: TensorHandle) -> TensorHandle:
    shape = tuple(int(n) for n in ret_ty.shape)
    kind = type(arg)
    if kind is not Affine and kind is not Box:
        arg = formula_of(arg) or arg
        kind = type(arg)
    if kind is Affine:
        return _inherit(Affine(arg.dtype.scalar, arg.base, (0,) * len(shape), shape), arg)
    if kind is Box:
        return everywhere(not arg.empty, shape)
    return Splat(arg.data.reshape(-1)[:1], arg.dtype.scalar, shape)


@replaces("create_expand_dims")
def expand_dims(builder: Any, arg: TensorHandle, axis: int) -> TensorHandle:
    kind = type(arg)
    if kind is Affine or kind is Box or kind is Splat:
        axis %= len(arg.shape) + 1
        shape = (*arg.shape[:axis], 1, *arg.shape[axis:])
        if kind is Affine:
            return _inherit(Affine(arg.dtype, arg.base, (*arg.steps[:axis], 0, *arg.steps[axis:]), shape), arg)
        if kind is Box:
            return Box((*arg.bounds[:axis], (0, 1), *arg.bounds[axis:]), shape)
        return Splat(arg.value, arg.dtype, shape)
    return _inherit(stock["create_expand_dims"](builder, arg, axis), arg)


@replaces("create_broadcast")
def broadcast(builder: Any, arg: TensorHandle, shape: Sequence[int]) -> TensorHandle:
    shape = tuple(int(n) for n in shape)
    if type(arg) is Affine:
        return _inherit(Affine(arg.dtype, arg.base, arg.steps, shape), arg)
    if type(arg) is Box:
        grown = zip(arg.bounds, arg.shape, shape, strict=True)
        return Box([(0, n if b == (0, 1) else 0) if old == 1 else b for b, old, n in grown], shape)
    return _inherit(stock["create_broadcast"](builder, arg, shape), arg)


@replaces("create_trans")
def trans(builder: Any, arg: TensorHandle, perm: Sequence[int]) -> TensorHandle:
    if type(arg) is Affine:
        steps, shape = ([part[p] for p in perm] for part in (arg.steps, arg.shape))
        return _inherit(Affine(arg.dtype, arg.base, steps, shape), arg)
    if type(arg) is Box:
        return Box([arg.bounds[p] for p in perm], [arg.shape[p] for p in perm])
    return _inherit(stock["create_trans"](builder, arg, perm), arg)


def _moves(name: str, operands: int) -> None:
    """Watch an operation that only moves elements: they stay what they are."""

    @replaces(name)
    def op(builder: Any, *args: Any) -> Any:
        out = stock[name](builder, *args)
        sources = args[:operands]
        for part in out if isinstance(out, tuple) else (out,):
            _inherit(part, *sources)
        return out


for _name, _operands in {"reshape": 1, "join": 2, "split": 1, "cat": 2, "gather": 1}.items():
    _moves(f"create_{_name}", _operands)


@replaces("get_all_ones_value")
def all_ones(builder: Any, type: tl.dtype) -> TensorHandle:
    """-1, or of an unsigned type its greatest value."""
    if type.is_int() and type.name != "int1":
        return scalar(type, -1 if type.is_int_signed() else integer_range(type.name)[1])
    return stock["get_all_ones_value"](builder, type)


@replaces("create_bitcast")
def bitcast(builder: Any, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
    if type(src) is Affine and src.dtype.is_ptr() and dst_type.scalar.is_ptr():
        return _inherit(Affine(dst_type.scalar, src.base, src.steps, src.shape), src)
    return _inherit(stock["create_bitcast"](builder, src, dst_type), src)


@replaces("create_ptr_to_int")
def ptr_to_int(builder: Any, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
    return _inherit(stock["create_ptr_to_int"](builder, src, dst_type), src)


@replaces("create_int_to_ptr")
def int_to_ptr(builder: Any, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
    """An address that was computed from no pointer, but loaded, say, names memory that no argument stands for."""
    out = _inherit(stock["create_int_to_ptr"](builder, src, dst_type), src)
    if out.__dict__.get("origin") is None:
        out.origin = ELSEWHERE
    return out


# ------------------------------------------------------------------------------------------------ arithmetic


def _arithmetic(name: str, exact: Any) -> None:
    """Replace an integer operation by one on formulas; ``exact`` gives base and steps, or None if there are none."""

    @replaces(name)
    def op(builder: Any, lhs: TensorHandle, rhs: TensorHandle) -> TensorHandle:
        a, b = formula_of(lhs), formula_of(rhs)
        if type(a) is Affine and type(b) is Affine and a.shape == b.shape:
            formula = exact(a, b)
            if formula is not None:
                out = affine_integer(a.dtype, formula[0], formula[1], a.shape)
                if out is not None:
                    return out if watch.observer is None else _inherit(out, a, b)
        out = stock[name](builder, lhs, rhs)
        if watch.observer is not None:
            _inherit(out, lhs, rhs)
            if wraps(name, lhs, rhs, out):
                out.wrapped = watch.observer.where()
        return out


def wraps(name: str, lhs: TensorHandle, rhs: TensorHandle, out: TensorHandle) -> bool:
    """Whether an element of a signed sum, difference, product or left shift of at most 32 bits does not fit."""
    if out.data.dtype.kind != "i" or out.data.dtype.itemsize > 4 or name not in _EXACT:
        return False
    return bool((_EXACT[name](lhs.data, rhs.data, dtype=np.int64) != out.data).any())


_EXACT = {"create_add": np.add, "create_sub": np.subtract, "create_mul": np.multiply, "create_shl": np.left_shift}


def _sum(a: Affine, b: Affine) -> tuple[int, list[int]]:
    return a.base + b.base, [s + t for s, t in zip(a.steps, b.steps, strict=True)]


def _difference(a: Affine, b: Affine) -> tuple[int, list[int]]:
    return a.base - b.base, [s - t for s, t in zip(a.steps, b.steps, strict=True)]


def _product(a: Affine, b: Affine) -> tuple[int, list[int]] | None:
    if not b.constant:
        a, b = b, a
    return (a.base * b.base, [s * b.base for s in a.steps]) if b.constant else None


def _shifted(a: Affine, b: Affine) -> tuple[int, list[int]] | None:
    return (a.base << b.base, [s << b.base for s in a.steps]) if b.constant and 0 <= b.base < 64 else None


def _quotient(a: Affine, b: Affine) -> tuple[int, list[int]] | None:
    low, high = a.span()
    if not b.constant or b.base <= 0 or low < 0:
        return None  # rounding is towards zero: leave signs to the stock method
    return (low // b.base, [0] * len(a.steps)) if low // b.base == high // b.base else None


def _remainder(a: Affine, b: Affine) -> tuple[int, list[int]] | None:
    quotient = _quotient(a, b)
    return None if quotient is None else (a.base - quotient[0] * b.base, list(a.steps))


def _minimum(a: Affine, b: Affine) -> tuple[int, list[int]] | None:
    (low_a, high_a), (low_b, high_b) = a.span(), b.span()
    least = a if high_a <= low_b else b if high_b <= low_a else None
    return None if least is None else (least.base, list(least.steps))


def _maximum(a: Affine, b: Affine) -> tuple[int, list[int]] | None:
    (low_a, high_a), (low_b, high_b) = a.span(), b.span()
    most = a if low_a >= high_b else b if low_b >= high_a else None
    return None if most is None else (most.base, list(most.steps))


for _name, _exact in {
    "create_add": _sum,
    "create_sub": _difference,
    "create_mul": _product,
    "create_shl": _shifted,
    "create_sdiv": _quotient,
    "create_udiv": _quotient,
    "create_srem": _remainder,
    "create_urem": _remainder,
    "create_minsi": _minimum,
    "create_minui": _minimum,
    "create_maxsi": _maximum,
    "create_maxui": _maximum,
}.items():
    _arithmetic(_name, _exact)


@replaces("create_int_cast")
def int_cast(builder: Any, src: TensorHandle, dst_type: tl.dtype, is_signed: bool) -> TensorHandle:
    formula = formula_of(src)
    if type(formula) is Affine and dst_type.scalar.name != "int1":
        out = affine_integer(dst_type.scalar, formula.base, formula.steps, formula.shape)
        if out is not None:
            return _inherit(out, src)
    return _inherit(stock["create_int_cast"](builder, src, dst_type, is_signed), src)


@replaces("create_addptr")
def addptr(builder: Any, ptr: TensorHandle, offset: TensorHandle) -> TensorHandle:
    """Pointer plus an offset in elements."""
    if watch.observer is not None and offset.__dict__.get("wrapped") is not None:
        watch.observer.overflow(offset.wrapped)
    formula = formula_of(offset)
    if type(ptr) is Affine and type(formula) is Affine and ptr.shape == formula.shape:
        size = max(1, ptr.get_element_ty().primitive_bitwidth // 8)
        steps = [s + size * t for s, t in zip(ptr.steps, formula.steps, strict=True)]
        out = Affine(ptr.dtype, ptr.base + size * formula.base, steps, ptr.shape)
        out.origin = ptr.origin
        return out
    return _inherit(stock["create_addptr"](builder, ptr, offset), ptr)


# ------------------------------------------------------------------------------------------------ masks


def _below_zero(base: int, steps: list[int], shape: tuple[int, ...]) -> Box | None:
    """Where ``base + sum(steps[d] * index[d]) < 0``, if that is a box: it is when at most one dimension matters."""
    varying = [d for d, s in enumerate(steps) if s and shape[d] > 1]
    if not varying:
        return everywhere(base < 0, shape)
    if len(varying) > 1:
        low, high = Affine(tl.int64, base, steps, shape).span()
        return everywhere(high < 0, shape) if high < 0 or low >= 0 else None
    d, bounds = varying[0], [(0, n) for n in shape]
    n, step = shape[d], steps[d]
    if step > 0:  # i < -base / step
        bounds[d] = (0, max(0, min(n, -(base // step))))
    else:  # i > base / -step
        bounds[d] = (min(n, max(0, base // -step + 1)), n)
    return Box(bounds, shape)


def _comparison(names: tuple[str, ...], sign: int, shift: int) -> None:
    """Replace comparisons that say ``sign * (lhs - rhs) + shift < 0``."""

    def replace(name: str) -> None:
        @replaces(name)
        def op(builder: Any, lhs: TensorHandle, rhs: TensorHandle) -> TensorHandle:
            a, b = formula_of(lhs), formula_of(rhs)
            if type(a) is Affine and type(b) is Affine and a.shape == b.shape and not a.dtype.is_ptr():
                base, steps = _difference(a, b) if sign > 0 else _difference(b, a)
                box = _below_zero(base + shift, steps, a.shape)
                if box is not None:
                    return box
            return stock[name](builder, lhs, rhs)

    for name in names:
        replace(name)


_comparison(("create_icmpSLT", "create_icmpULT"), 1, 0)
_comparison(("create_icmpSLE", "create_icmpULE"), 1, -1)  # of integers: a <= b where a - 1 < b
_comparison(("create_icmpSGT", "create_icmpUGT"), -1, 0)
_comparison(("create_icmpSGE", "create_icmpUGE"), -1, -1)


@replaces("create_and")
def logical_and(builder: Any, lhs: TensorHandle, rhs: TensorHandle) -> TensorHandle:
    a, b = formula_of(lhs), formula_of(rhs)
    if type(a) is Box and type(b) is Box and a.shape == b.shape:
        both = zip(a.bounds, b.bounds, strict=True)
        return Box([(max(p[0], q[0]), min(p[1], q[1])) for p, q in both], a.shape)
    for one, other in ((a, rhs), (b, lhs)):
        if type(one) is Box and one.full and other.data.dtype == np.bool_ and other.data.shape == one.shape:
            return other
    return stock["create_and"](builder, lhs, rhs)


@replaces("create_select")
def select(builder: Any, condition: TensorHandle, lhs: TensorHandle, rhs: TensorHandle) -> TensorHandle:
    mask = formula_of(condition)
    if type(mask) is Box and (mask.full or mask.empty):
        return lhs if mask.full else rhs
    out = stock["create_select"](builder, condition, lhs, rhs)
    return _inherit(out, rhs, lhs)
