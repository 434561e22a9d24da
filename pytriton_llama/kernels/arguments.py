"""What every wrapper asks of its tensors before it launches anything, and how it takes them apart into rows.

Most calls come with contiguous tensors, thousands of times a second: that way is short.
"""

import functools
import sys
from collections.abc import Callable

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from pytriton_llama.runtime import NO_GPU, has_gluon, has_tma, interpreted, runs_bfloat16

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Numbers below 2³¹ are passed in 32 bits: a walk along a row of so many columns would end past what these can say.
TOO_LONG = 2**31 - 2**16


def check(op: str, **tensors: torch.Tensor | None) -> None:
    """Raise where a kernel could not run, or would run and be wrong.

    All tensors (``None`` is skipped) must share one floating dtype and one device, and this process must be able to
    launch there. Kernels are forward only, so gradients must not be expected.

    Raises:
        TypeError: a dtype that no kernel takes, or that this device cannot do; dtypes that differ.
        ValueError: devices that differ or that this process has no kernels for; gradients required; negative bits.
    """
    first = None
    for name, t in tensors.items():
        if t is None:
            continue
        if first is None:
            first_name, first, dtype, device = name, t, t.dtype, t.device
            if dtype not in DTYPES:
                raise TypeError(f"{op}: {name} is {dtype}; needed: float32, float16 or bfloat16")
        if t.dtype is not dtype:
            raise TypeError(f"{op}: {name} is {t.dtype} but {first_name} is {dtype}; they must agree")
        if t.device != device:
            raise ValueError(f"{op}: {name} is on {t.device} but {first_name} is on {device}")
        need_no_grad(op, name, t)
        if t.is_neg():
            raise ValueError(f"{op}: {name} has torch's negative bit, which kernels don't see: use resolve_neg()")
    assert first is not None
    check_device(op, first_name, first)


def need_no_grad(op: str, name: str, t: torch.Tensor) -> None:
    """Raise ``ValueError`` if gradients are expected."""
    if t.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: {name} requires grad, but kernels are forward only: use torch.no_grad()")


def check_device(op: str, name: str, t: torch.Tensor) -> None:
    """Raise unless this process can launch a kernel on the tensor's device, in its dtype; errors as :func:`check`."""
    if interpreted():
        if not t.is_cpu:
            raise ValueError(f"{op}: {name} is on {t.device}, but kernels are interpreted on the CPU here")
    elif not t.is_cuda or t.get_device() != torch.cuda.current_device():
        need(torch.cuda.is_available(), f"{op}: {NO_GPU}")
        raise ValueError(
            f"{op}: {name} is on {t.device}, but kernels are compiled for cuda:{torch.cuda.current_device()} in this "
            "process (TRITON_INTERPRET=1 interprets them on the CPU)"
        )
    if t.dtype is torch.bfloat16 and not runs_bfloat16(t.device):
        raise TypeError(f"{op}: no bfloat16 on {t.device} (it needs sm_80, or the fast interpreter): use float16")


def empty_rows_like(x: torch.Tensor) -> torch.Tensor:
    """Uninitialised, of x's shape and dtype. Each row (along the last dimension) lies together; the rows lie in the
    order of x's rows in memory, so that :func:`for_rows` can walk through both alike. Contiguous if x is."""
    if x.is_contiguous():
        return torch.empty_like(x)
    order = _memory_order(x)
    y = torch.empty([x.shape[d] for d in order], dtype=x.dtype, device=x.device)
    return y.permute([order.index(d) for d in range(x.dim())])


def for_rows(launch: Callable, outputs: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...]) -> None:
    """Call ``launch(M, N, strides, outputs, inputs)`` for all rows of tensors of one shape (..., N).

    ``outputs`` are :func:`empty_rows_like` the first input; ``strides`` are the inputs' (row, column) strides. Nothing
    is copied: where strides allow no view as one matrix (M, N), there is a launch for each of several.

    Raises:
        ValueError: rows of 2³¹ − 2¹⁶ … 2³¹ − 1 columns.
    """
    first = inputs[0]
    N = first.shape[-1]
    need(not TOO_LONG <= N < 2**31, f"rows of {N} columns: not between {TOO_LONG} and {2**31}")
    if first.is_contiguous() and (len(inputs) == 1 or all(t.is_contiguous() for t in inputs)):
        launch(first.numel() // N, N, (N, 1) * len(inputs), outputs, inputs)
        return
    order = _memory_order(inputs[0])
    _launch_matrices(launch, *([t.permute(order) for t in tensors] for tensors in (outputs, inputs)))


def _memory_order(x: torch.Tensor) -> list[int]:
    """Dimensions from the largest step in memory to the smallest, the last one staying last. A dimension without a
    step, which ``expand`` makes, comes first: it merges with no other."""
    return [*sorted(range(x.dim() - 1), key=lambda d: x.stride(d) or sys.maxsize, reverse=True), x.dim() - 1]


def _launch_matrices(launch: Callable, outputs: list[torch.Tensor], inputs: list[torch.Tensor]) -> None:
    N = inputs[0].shape[-1]
    try:
        matrices = [t.view(-1, N) for t in (*outputs, *inputs)]
    except RuntimeError:  # the first dimension does not merge with the next
        for i in range(inputs[0].shape[0]):
            _launch_matrices(launch, [t[i] for t in outputs], [t[i] for t in inputs])
        return
    outs, ins = tuple(matrices[: len(outputs)]), tuple(matrices[len(outputs) :])
    launch(ins[0].shape[0], N, tuple(stride for t in ins for stride in t.stride()), outs, ins)


def row_major(matrix: torch.Tensor) -> torch.Tensor:
    """``matrix``, copied if its columns do not lie side by side."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def near(t: torch.Tensor) -> torch.Tensor:
    """A (batch, heads, length, head_dim) tensor, copied if its rows lie so far apart that a step over a tile of them
    passes 2³¹: in 64 bits it would take registers that attention has not got."""
    return t if t.stride(2) < 2**31 // 256 else t.contiguous()


def takes_tma(x: torch.Tensor) -> bool:
    """Whether the GPU has a Tensor Memory Accelerator that is worth its while: products of float32 are made in
    registers."""
    return x.element_size() == 2 and has_tma(x.device)


def takes_gluon(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether ``flash_attention_hopper.py`` can take these (batch, heads, length, head_dim) tensors: 16 bits, strides
    that TMA can step along, at least one key. A head_dim up to 32 would leave half of its tiles empty; o is packed, so
    that TMA can step along it only if head_dim is a multiple of 8."""
    return (
        q.element_size() == 2
        and has_gluon(q.device)
        and q.shape[3] > 32
        and q.shape[3] % 8 == 0
        and k.shape[2] > 0
        and all(t.data_ptr() % 16 == 0 and all(n > 0 and n % 8 == 0 for n in t.stride()[:3]) for t in (q, k, v))
    )


def describable(matrix: torch.Tensor) -> bool:
    """Whether TMA can fetch or store tiles of it: rows 16 bytes apart or a multiple of that, columns side by side."""
    row_stride, column_stride = matrix.stride()
    return column_stride == 1 and row_stride > 0 and row_stride % 8 == 0 and matrix.data_ptr() % 16 == 0


def for_tma(matrix: torch.Tensor) -> torch.Tensor:
    """``matrix``, copied if it is not :func:`describable` as it is."""
    if describable(matrix):
        return matrix
    rows, columns = matrix.shape
    return matrix.new_empty(rows, -(-columns // 8) * 8)[:, :columns].copy_(matrix)


def descriptor(matrix: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
    """What TMA needs to know to fetch or store tiles of so many rows and columns; of the transposed matrix, if that is
    the one whose rows lie together."""
    if matrix.stride(1) != 1:
        matrix, rows, columns = matrix.t(), columns, rows
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [rows, columns])


def pair_descriptor(first: torch.Tensor, second: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
    """One descriptor of two matrices alike, ``second`` further up in memory; a tile, (2, rows, columns), has rows of
    both.

    To TMA a tensor is an address and a step for each dimension: the first step here leads from one matrix to the other.
    """
    step = (second.data_ptr() - first.data_ptr()) // first.element_size()
    return TensorDescriptor(first, [2, *first.shape], [step, *first.stride()], [2, rows, columns])


def need(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def counters(count: int, device: torch.device) -> torch.Tensor:
    """int32 zeros, for kernels whose programs count themselves, and leave zeros.

    One tensor a stream: launches that may run side by side must not share it.
    """
    return _counters(count, device, torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0)


@functools.lru_cache(1024)
def _counters(count: int, device: torch.device, stream: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int32, device=device)
