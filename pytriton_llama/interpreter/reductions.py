"""Reductions and scans, as methods of the builder.

The stock interpreter computes them outside the builder, where plans do not see them, and an unknown combine function
element by element. The function is made of elementwise operations, so it can as well combine a whole slice with the
next: the same operations in the same order for each element.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

from pytriton_llama.interpreter import plans
from pytriton_llama.interpreter.patches import replaces
from pytriton_llama.interpreter.types import Kind, cast, f32_to_bf16, is_bf16, tensor, values_of

_UFUNCS: dict[Any, Any] = {  # which ReduceOps reaches through slower wrappers
    tl.standard._sum_combine: np.add,
    tl.standard._elementwise_max: np.fmax,  # NaN only where all are NaN
    tl.standard._elementwise_min: np.fmin,
}
_KNOWN = {  # to the stock interpreter, which takes whole arrays too
    tl.standard._argmin_combine_tie_break_left,
    tl.standard._argmax_combine_tie_break_left,
    tl.standard._sum_combine,
    tl.standard._prod_combine,
}


class _Peeked(Exception):
    """The combine function asked for a number."""


@replaces("create_reduction")
def reduction(
    builder: Any, handles: list[TensorHandle], kinds: list[Kind], axis: int | None, combine: Any, keep_dims: bool
) -> tuple:
    """What ``tl.reduce`` computes. Returns a handle and a type for each operand."""
    inputs = tuple(map(tensor, handles, kinds))
    stock = interpreter.ReduceOps(axis, combine, keep_dims)
    stock.check_tensor(inputs)
    if combine in _UFUNCS:
        values = values_of(handles[0])  # of their own type: numpy would add int32 in int64, which then does not fit
        out = _UFUNCS[combine].reduce(values, axis=axis, dtype=values.dtype, keepdims=keep_dims)
        if is_bf16(handles[0]):
            out = f32_to_bf16(np.atleast_1d(out)).reshape(np.shape(out))
        outputs: Any = [stock.to_tensor(out, kinds[0].dtype)]
    elif combine in _KNOWN:
        outputs = stock.apply(inputs)
    else:
        try:
            *_, last = _running(builder, handles, kinds, axis, combine)
            shaped = [_reshaped(d, h, axis, keep_dims) for d, h in zip(last, handles, strict=True)]
            outputs = [stock.to_tensor(d, k.dtype) for d, k in zip(shaped, kinds, strict=True)]
        except _Peeked:
            outputs = stock.apply(inputs)
    return tuple(part for t in outputs for part in (t.handle, t.type))


def _reshaped(data: np.ndarray, handle: TensorHandle, axis: int | None, keep_dims: bool) -> Any:
    """The data without the axis, or with one element along it."""
    shape = handle.data.shape
    if keep_dims:
        return data.reshape([1 if axis in (None, d) else n for d, n in enumerate(shape)])
    return data.reshape([n for d, n in enumerate(shape) if d != axis]) if axis is not None else data.reshape(())


@replaces("create_scan")
def scan(builder: Any, handles: list[TensorHandle], kinds: list[Kind], axis: int, combine: Any, reverse: bool) -> tuple:
    """What ``tl.associative_scan`` computes. Returns a handle and a type for each operand."""
    inputs = tuple(map(tensor, handles, kinds))
    stock = interpreter.ScanOps(axis, combine, reverse)
    try:
        if combine in _KNOWN:
            raise _Peeked
        stock.check_tensor(inputs)
        turned = [TensorHandle(np.flip(h.data, axis), h.dtype) for h in handles] if reverse else handles
        rows = zip(*_running(builder, turned, kinds, axis, combine), strict=True)
        outputs: Any = []
        for row, handle, kind in zip(rows, handles, kinds, strict=True):
            shape = list(handle.data.shape)
            del shape[axis]
            data = np.stack([part.reshape(shape) for part in row], axis)
            outputs.append(stock.to_tensor(np.flip(data, axis) if reverse else data, kind.dtype))
    except _Peeked:
        outputs = stock.apply(inputs)
    return tuple(part for t in outputs for part in (t.handle, t.type))


def _running(
    builder: Any, handles: list[TensorHandle], kinds: list[Kind], axis: int | None, combine: Any
) -> Iterator[list[np.ndarray]]:
    """The first slice along the axis, then what it combines to with the second, and so on."""
    blocks = [h.data.reshape(-1) if axis is None else np.moveaxis(h.data, axis, 0) for h in handles]

    def slices(i: int) -> list[tl.tensor]:
        out = []
        for block, kind in zip(blocks, kinds, strict=True):
            data = block[i]
            type = tl.block_type(kind.dtype, list(data.shape)) if data.shape else kind.dtype
            out.append(tl.tensor(TensorHandle(np.atleast_1d(data), kind.dtype), type))
        return out

    accumulated = slices(0)
    yield [t.handle.data for t in accumulated]
    for i in range(1, len(blocks[0])):
        peeks = plans.peeks
        result = combine.fn(*accumulated, *slices(i))
        if plans.peeks != peeks:
            raise _Peeked
        result = result if isinstance(result, tuple) else (result,)
        for j, (value, before) in enumerate(zip(result, accumulated, strict=True)):
            if not isinstance(value, tl.tensor):
                raise _Peeked
            handle = value.handle
            if handle.dtype.scalar != before.dtype:  # each step is rounded to the operand's type
                handle = cast(builder, handle, before.dtype)
            accumulated[j] = tensor(handle, before.kind)
        yield [t.handle.data for t in accumulated]
