"""Number types: what numpy lacks (bfloat16), and what the interpreter looks up anew in every operation.

numpy has no bfloat16, so the interpreter keeps the 16 bits as an unsigned integer, and its arithmetic adds and
multiplies those integers. Here a bfloat16 operation happens in float32 and its result is rounded to the nearest
bfloat16, ties to even, as the GPU does.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

from pytriton_llama.interpreter.patches import put, replaces, stock

WORD = np.dtype(np.uint64)


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """The float32 of each bfloat16: its bits are the upper half."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even."""
    bits = np.array(values, np.float32, order="C").view(np.uint32)
    nan = np.isnan(values)
    # Half of the last kept bit, less one unless that bit is odd: then a tie carries, to the even neighbour.
    bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)
    bits >>= 16
    out = bits.astype(np.uint16)
    out[nan] = 0x7FC0  # the carry could have turned a NaN into an infinity
    return out


def is_bf16(handle: TensorHandle) -> bool:
    return handle.dtype.name == "bf16"


def values_of(handle: TensorHandle) -> np.ndarray:
    """The data as numbers that numpy can compute with."""
    return bf16_to_f32(handle.data) if is_bf16(handle) else handle.data


def from_values(values: np.ndarray, dtype: tl.dtype) -> TensorHandle:
    """A handle of a type from numbers in that type, or in float32 for bfloat16."""
    return TensorHandle(f32_to_bf16(values) if dtype.name == "bf16" else values, dtype)


_np_dtypes: dict[str, np.dtype] = {}


def np_dtype(dtype: tl.dtype) -> np.dtype:
    """The numpy type that holds a Triton type; pointers are 64-bit words."""
    scalar = dtype.scalar
    if scalar.is_ptr():
        return WORD
    found = _np_dtypes.get(scalar.name)
    if found is None:
        found = _np_dtypes[scalar.name] = interpreter._get_np_dtype(scalar)
    return found


@lru_cache(None)
def integer_range(name: str) -> tuple[int, int]:
    """Least and greatest value of the integer type of that name."""
    info = np.iinfo(np_dtype(tl.dtype(name)))
    return int(info.min), int(info.max)


class Splat(TensorHandle):
    """One number, wherever the block is asked: held as an array of one element until something needs all of it."""

    def __init__(self, value: np.ndarray, dtype: tl.dtype, shape: tuple[int, ...]) -> None:
        self.value = value.reshape((1,) * len(shape))
        self.dtype, self.shape = dtype, shape
        self.attr: dict = {}
        self._data: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        if self._data is None:
            self._data = np.full(self.shape, self.value)
        return self._data


# ------------------------------------------------------------------------------------------------ arithmetic


def _operands(*handles: TensorHandle) -> tuple[list[np.ndarray], tuple[int, ...] | None]:
    """Numbers to compute with, and the shape if all of them are splats.

    numpy lays a result out in memory like its operands, and sums in memory order. A splat takes part as one element
    only beside blocks in row order, where the layout, and so the last bit of a later sum, is the stock interpreter's.
    """
    dense = [h for h in handles if type(h) is not Splat]
    if not dense:
        values = [h.value for h in handles]
        shape = handles[0].shape
    else:
        whole = not all(h.data.flags.c_contiguous for h in dense)
        values = [h.value if type(h) is Splat and not whole else h.data for h in handles]
        shape = None
    for i, h in enumerate(handles):
        if is_bf16(h) and values[i].dtype == np.uint16:
            values[i] = bf16_to_f32(values[i])
    return values, shape


def _result(out: np.ndarray, dtype: tl.dtype, shape: tuple[int, ...] | None) -> TensorHandle:
    if out.dtype == np.bool_:
        dtype = tl.int1
    elif dtype.name == "bf16":
        out = f32_to_bf16(out)
    elif out.itemsize > np_dtype(dtype).itemsize:
        out = out.astype(np_dtype(dtype))
    return TensorHandle(out, dtype) if shape is None else Splat(out, dtype, shape)


@replaces("binary_op")
def binary(builder: Any, lhs: TensorHandle, rhs: TensorHandle, op: Any) -> TensorHandle:
    (a, b), shape = _operands(lhs, rhs)
    return _result(op(a, b), lhs.dtype.scalar, shape)


@replaces("unary_op")
def unary(builder: Any, arg: TensorHandle, op: Any) -> TensorHandle:
    (a,), shape = _operands(arg)
    return _result(op(a), arg.dtype.scalar, shape)


@replaces("create_fma")
def fma(builder: Any, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
    (a, b, c), shape = _operands(x, y, z)
    return _result(a * b + c, z.dtype.scalar, shape)


@replaces("create_clampf")
def clamp(builder: Any, x: TensorHandle, low: TensorHandle, high: TensorHandle, propagate_nan: Any) -> TensorHandle:
    (a, b, c), shape = _operands(x, low, high)
    return _result(np.clip(a, b, c), x.dtype.scalar, shape)


@replaces("create_ashr")
def shift_right(builder: Any, lhs: TensorHandle, rhs: TensorHandle) -> TensorHandle:
    """The stock method turns its operands into signed ones in place; handles here are shared, so copies are."""
    copies = [TensorHandle(h.data, h.dtype) for h in (lhs, rhs)]
    return stock["create_ashr"](builder, *copies)


@replaces("get_bf16")
def bf16_constant(builder: Any, value: float) -> TensorHandle:
    return TensorHandle(f32_to_bf16(np.array([value], np.float32)), tl.bfloat16)


@replaces("cast_impl")
def cast(builder: Any, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
    """A conversion between number types, other than to and from 8-bit floats."""
    dtype = dst_type.scalar
    if type(src) is Splat:
        return Splat(cast(builder, TensorHandle(src.value, src.dtype), dtype).data, dtype, src.shape)
    if is_bf16(src) and src.data.dtype == np.uint16:
        wide = bf16_to_f32(src.data)
        return TensorHandle(wide if dtype.name == "fp32" else wide.astype(np_dtype(dtype)), dtype)
    if dtype.name == "bf16":
        return TensorHandle(f32_to_bf16(src.data.astype(np.float32)), dtype)
    return stock["cast_impl"](builder, src, dst_type)


@replaces("create_dot")
def dot(
    builder: Any, a: TensorHandle, b: TensorHandle, d: TensorHandle, input_precision: Any, max_num_imprecise_acc: Any
) -> TensorHandle:
    """Products of values: bfloat16 operands are widened first. tf32 is computed as float32."""
    if a.dtype.scalar.is_fp8() or b.dtype.scalar.is_fp8():
        return stock["create_dot"](builder, a, b, d, input_precision, max_num_imprecise_acc)
    start = d.value if type(d) is Splat else d.data
    return TensorHandle(np.matmul(values_of(a), values_of(b), dtype=start.dtype) + start, d.dtype.scalar)


# ------------------------------------------------------------------------------------------------ tensors


class Kind:
    """The type of a tensor with what every tensor of that type carries. One object a type: compared by identity."""

    def __init__(self, type: tl.dtype) -> None:
        example = object.__new__(tl.tensor)
        stock["tensor.__init__"](example, None, type)
        self.type, self.dtype = type, example.dtype
        self.attributes = vars(example) | {"kind": self}


_kinds: dict[Any, Kind] = {}


def kind_of(type: tl.dtype) -> Kind:
    key = (type.element_ty.name, *type.shape) if type.is_block() else type.name
    found = _kinds.get(key)
    if found is None:
        found = _kinds[key] = Kind(type)
    return found


def tensor(handle: Any, kind: Kind, new: Any = object.__new__, cls: type = tl.tensor) -> tl.tensor:
    """A ``tl.tensor`` whose type is known already."""
    out = new(cls)
    out.__dict__ = {**kind.attributes, "handle": handle}
    return out


def _tensor_init(self: tl.tensor, handle: Any, type: tl.dtype) -> None:
    self.__dict__ = {**kind_of(type).attributes, "handle": handle}


def _handle_init(self: TensorHandle, data: np.ndarray, dtype: tl.dtype, attr: dict | None = None) -> None:
    self.data, self.dtype, self.attr = data, dtype, {} if attr is None else attr
    if data.itemsize > 1 and not dtype.is_ptr() and 8 * data.itemsize > dtype.scalar.primitive_bitwidth:
        self.__post_init__()  # the stock check, which says what is wrong


def install() -> None:
    """Replace the constructors that every operation runs through."""
    stock["tensor.__init__"] = tl.tensor.__init__
    put(tl.tensor, "__init__", _tensor_init)
    put(TensorHandle, "__init__", _handle_init)


def forget() -> None:
    _kinds.clear()
