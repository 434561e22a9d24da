"""Kernels chosen to go wrong give the stock interpreter's bits."""

import ctypes
import mmap

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter as stock
from triton.tools.tensor_descriptor import TensorDescriptor

from pytriton_llama import interpreter
from pytriton_llama.interpreter.blas import one_thread

OLD_RANGE = triton.__version__.startswith("3.6") and np.lib.NumpyVersion(np.__version__) >= "2.4.0"


def same(kernel, grid, *args, **kwargs):
    """Launch on copies of the arguments, stock and twice fast (recording and replaying plans); compare every bit."""
    interpreter.disable()
    with one_thread():
        stock = launch(kernel, grid, args, kwargs)
    interpreter.enable()
    for _ in range(2):
        for i, (a, b) in enumerate(zip(stock, launch(kernel, grid, args, kwargs), strict=True)):
            assert torch.equal(bits(a), bits(b)), f"argument {i}: {(bits(a) != bits(b)).sum()} elements differ"
    return stock


def launch(kernel, grid, args, kwargs):
    """The tensors after a launch; a view's whole storage counts."""
    own = [copy(a) for a in args]
    kernel[grid](*own, **kwargs)
    return [a.base if isinstance(a, TensorDescriptor) else a for a in own if hasattr(a, "dtype") or hasattr(a, "base")]


def copy(arg):
    if isinstance(arg, torch.Tensor):
        storage = arg.untyped_storage().clone()
        return torch.empty(0, dtype=arg.dtype).set_(storage, arg.storage_offset(), arg.shape, arg.stride())
    if isinstance(arg, TensorDescriptor):
        return TensorDescriptor(copy(arg.base), arg.shape, arg.strides, arg.block_shape, arg.padding)
    return arg


def bits(t):
    return torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage())


def rand(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


def ints(high, *shape, dtype=torch.int32):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high)).to(dtype)


# ------------------------------------------------------------------------------------- memory, masks, strides


@triton.jit
def scale(x, y, N, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + i, tl.load(x + i, mask=i < N, other=7.0) * 2 + i, mask=i < N)


@pytest.mark.parametrize("n", [70, 64, 1, 0])
def test_masked_ends(n):
    """Catches a box that is off by one, and an `other` that is forgotten outside the box."""
    same(scale, (3,), rand(96), zeros(96), n, 32)


@triton.jit
def reuse(x, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    b = tl.load(x + (B - 1 - i))
    tl.store(x + i, b)
    tl.store(x + i, a + b * 10)


def test_in_place():
    """Catches zero-copy loads, which see the later store, and a sign lost from a negative step."""
    same(reuse, (1,), rand(64), 64)


@triton.jit
def framed(x, y, M, N, sm, sn, B: tl.constexpr):
    m = tl.arange(0, B)[:, None]
    n = tl.arange(0, B)[None, :]
    keep = (m < M) & (n < N) & (m >= 1) & (n != 3)
    tl.store(y + n * B + m, tl.load(x + m * sm + n * sn, mask=keep, other=-1.0))


@triton.jit
def boxed(x, y, M, N, sm, sn, B: tl.constexpr):
    m = tl.arange(0, B)[:, None]
    n = tl.arange(0, B)[None, :]
    keep = (m < M) & (n < N) & (m >= 1) & (2 * n + 1 > 4) & (N - n >= 2)
    v = tl.load(x + m * sm + n * sn, mask=keep, other=-1.0)
    tl.store(y + n * B + m, v, mask=keep | (n == 0))
    tl.store(y + B * B + m * B + n, v, mask=(n == 5) & (5 - m > 0))


@pytest.mark.parametrize("kernel", [framed, boxed])
@pytest.mark.parametrize("size", [(9, 11), (16, 16), (0, 11), (1, 1)])
@pytest.mark.parametrize("strides", [(16, 1), (1, 32), (0, 2), (2, 0)])
def test_two_dimensional_masks(kernel, size, strides):
    """Catches `<` solved as `<=`, a mask that is no box treated as one, and zero strides read as contiguous."""
    same(kernel, (1,), rand(32, 32), zeros(1024), *size, *strides, 16)


@triton.jit
def one_row(x, y, M, N, B: tl.constexpr):
    m = tl.arange(0, 1)[:, None]
    n = tl.arange(0, B)[None, :]
    tl.store(y + m * B + n, tl.load(x + m * B + n, mask=(m < M) & (n < N), other=-1.0))


@pytest.mark.parametrize("size", [(0, 11), (1, 11), (1, 0)])
def test_masks_of_one_row(size):
    """Catches a mask of one element that lets nothing through, broadcast to one that lets all through."""
    same(one_row, (1,), rand(16), zeros(16), *size, 16)


@triton.jit
def large_frame(x, y, M, N, B: tl.constexpr):
    m = tl.arange(0, B)[:, None]
    n = tl.arange(0, B)[None, :]
    keep = (m >= 5) & (m < M) & (n >= 3) & (n < N)
    tl.store(y + m * B + n, tl.load(x + m * B + n, mask=keep, other=-2.0))
    tl.store(y + m * B + n, tl.load(x + m * B + n, mask=keep, other=(m + n).to(tl.float32)), mask=n > 200)
    tl.store(y + m * B + n, tl.load(x + m * B + n, mask=keep), mask=m > 200)


def test_large_blocks_are_framed():
    """Catches a slab around the box left as uninitialised memory, or filled with the wrong part of `other`."""
    same(large_frame, (1,), rand(256, 256), zeros(256, 256), 250, 240, 256)


@triton.jit
def turned(x, y, B: tl.constexpr):
    m = tl.arange(0, B)[:, None]
    n = tl.arange(0, B)[None, :]
    tl.store(y + m * B + n, tl.load(tl.trans(x + m * B + n)) + tl.trans(m * 2 - n))


def test_transposed_pointers():
    """Catches steps permuted without their shape."""
    same(turned, (1,), rand(16, 16), zeros(256), 16)


@triton.jit
def backwards(x, y, sx, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.load(x - i * sx, mask=i > 2, other=0.0))
    tl.store(y + B + i, tl.load(x + (-i) * sx + 0 * i))


@pytest.mark.parametrize("stride", [1, 2, 0, -1])
def test_negative_strides(stride):
    """Catches an unsigned step."""
    same(backwards, (1,), rand(200)[100:], zeros(64), stride, 32)


@triton.jit
def rows(x, index, y, B: tl.constexpr):
    i = tl.arange(0, B)
    d = tl.arange(0, B)
    j = tl.load(index + i)
    odd = (i % 5)[:, None] + (i // 3)[:, None]
    tl.store(y + i[:, None] * B + d[None, :], tl.load(x + j[:, None] * B + d[None, :]) + odd)


def test_gather():
    """Catches a pointer that follows no formula taken for one."""
    same(rows, (1,), rand(64, 16), ints(64, 16, dtype=torch.int64), zeros(256), 16)


@triton.jit
def wrapped_rows(x, y, M, B: tl.constexpr):
    i = (tl.program_id(0) * B + tl.arange(0, B)) % M
    tl.store(y + tl.program_id(0) * B + tl.arange(0, B), tl.load(x + i) + (i // 7))


@pytest.mark.parametrize("m", [40, 64, 7, 1])
def test_wraparound_gather(m):
    """Catches `%` dropped for a range that does not stay below the modulus."""
    same(wrapped_rows, (3,), rand(64), zeros(96), m, 32)


@triton.jit
def either(x, y, out, n, B: tl.constexpr):
    i = tl.arange(0, B)
    p = tl.where(i < n, x + i, y + (B - i))
    tl.store(out + i, tl.load(p))
    q = tl.where(n > 3, x, y)
    tl.store(out + B + i, tl.load(q + i))


@pytest.mark.parametrize("n", [0, 5, 32])
def test_where_on_pointers(n):
    """Catches `where` that decides for the block by its first element."""
    same(either, (1,), rand(40), rand(41), zeros(64), n, 32)


@triton.jit
def repeated(y, B: tl.constexpr):
    i = tl.arange(0, B)[:, None]
    tl.store(y + i + tl.zeros((B, B), tl.int32), i * 1.0 + tl.zeros((B, B), tl.float32))
    tl.store(y + B, tl.load(y + 2) + 100.0)
    tl.store(y + B + 1 + tl.arange(0, B) // 2, tl.arange(0, B).to(tl.float32))
    rows = tl.arange(0, 4)[:, None]
    cols = tl.arange(0, 8)[None, :]
    tl.store(y + 40 + rows * 4 + cols, (rows * 8 + cols).to(tl.float32), mask=cols < 7)
    tl.atomic_add(y + 40 + rows * 4 + cols, 1.0)


def test_many_elements_at_one_address():
    """Catches a block store whose last writer is another one than in index order."""
    same(repeated, (1,), zeros(80), 16)


@triton.jit
def cube(x, y, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr):
    b = tl.arange(0, B)[:, None, None]
    c = tl.arange(0, C)[None, :, None]
    d = tl.arange(0, D)[None, None, :]
    v = tl.load(x + b * C * D + c * D + d, mask=(b < B - 1) & (c < 5) & (d >= 2), other=1.5)
    tl.store(y + d * B * C + b * C + c, v + tl.sum(v, 1)[:, None, :])
    tl.store(y + tl.permute(b * C * D + c * D + d, 2, 0, 1), tl.permute(v, 2, 0, 1), mask=tl.permute(d < 9, 2, 0, 1))


def test_three_dimensions():
    """Catches rules written for two dimensions."""
    same(cube, (1,), rand(4, 8, 16), zeros(512), 4, 8, 16)


@triton.jit
def holes(x, y, N, B: tl.constexpr):
    i = tl.arange(0, B)
    k = (i < N) & (i % 3 != 1)
    tl.store(y + i, tl.load(x + i, mask=k, other=0.0))
    tl.store(x + i, i * 1.0, mask=k)


@pytest.mark.parametrize("kernel", [holes, scale])
def test_masked_off_memory_is_left_alone(kernel):
    """Catches a load that reads the whole block and selects afterwards: the page behind the data cannot be read."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), page, 0) == 0
    data = torch.frombuffer((ctypes.c_char * page).from_address(start), dtype=torch.float32)
    data[:] = rand(page // 4)
    last = data[-700:]
    out = zeros(2048)
    expected = torch.cat([last * 2 + torch.arange(700), torch.zeros(1348)])
    kernel[(1,)](last, out, 700, 2048)
    if kernel is scale:
        assert torch.equal(out, expected)


@triton.jit
def far_rows(x, y, stride, N, B: tl.constexpr):
    i = tl.arange(0, B)[:, None].to(tl.int64)
    j = tl.arange(0, B)[None, :]
    k = (i < N) & ((i + j) % 2 == 0)
    tl.store(y + i * stride + j, tl.load(x + i * stride + j, mask=k, other=0.0), mask=k)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("stride", [1 << 20, -(1 << 20), 1 << 30, -(1 << 40), 1 << 57, -(1 << 57)])
def test_masked_off_elements_may_be_far_away(stride, n):
    """Catches a masked copy whose result lies inside the block that it reads: numpy then copies all of the block first,
    from where no memory is (a crash); and formulas whose addresses are no addresses."""
    same(far_rows, (1,), rand(64), zeros(64), stride, n, 64)


# ------------------------------------------------------------------------------------- integers


@triton.jit
def wrapping_sum(y, B: tl.constexpr):
    i = tl.arange(0, B) + 2147483000
    tl.store(y, tl.sum(i))
    tl.store(y + 1 + tl.arange(0, 1), tl.sum(i[:, None], 0))
    tl.store(y + tl.arange(0, B), (i - 2147483000) << 29, mask=tl.arange(0, B) > 1)


def test_sums_and_shifts_wrap():
    """Catches a sum of int32 kept in int64, which then fits into no int32 (the stock interpreter raises), and a formula
    for a shift that does not fit."""
    y = zeros(16, dtype=torch.int32)
    wrapping_sum[(1,)](y, 16)
    total = (16 * 2147483000 + 120 + (1 << 31)) % (1 << 32) - (1 << 31)
    shifted = [((i << 29) + (1 << 31)) % (1 << 32) - (1 << 31) for i in range(2, 16)]
    assert y.tolist() == [total, total, *shifted]


@triton.jit
def wrap(y, big, B: tl.constexpr):
    i = tl.arange(0, B) + big
    tl.store(y + tl.arange(0, B), i * 3 - 7)


@pytest.mark.parametrize("big", [2**31 - 5, 2**30, -(2**31), 3])
def test_int32_wraps(big):
    """Catches formulas computed in Python's integers, which never wrap."""
    same(wrap, (1,), zeros(16, dtype=torch.int32), big, 16)


@triton.jit
def widths(y, z, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, i.to(tl.uint8).to(tl.int32))
    tl.store(z + i, (i.to(tl.int64) << 33) + i - 5)
    tl.store(z + B + i, (i.to(tl.uint32) - 3).to(tl.int64) + (i - 300).to(tl.int8))


def test_integer_widths():
    """Catches a narrowing cast that keeps the formula."""
    same(widths, (1,), zeros(512, dtype=torch.int32), zeros(1024, dtype=torch.int64), 512)


@triton.jit
def compared(y, n, B: tl.constexpr):
    i = tl.arange(0, B)
    down = n - 2 * i
    r = (i < n).to(tl.int32) + 2 * (i <= n) + 4 * (i > n) + 8 * (i >= n) + 16 * (i == n) + 32 * (i != n)
    r += 64 * (down < 5) + 128 * (down <= 6) + 256 * (down > 7) + 512 * (down >= 8) + 1024 * (down < 0)
    r += 2048 * (i.to(tl.uint32) < 9) + 4096 * ~(i < n)
    tl.store(y + i, tl.where(i < 1000, r, -1))


@pytest.mark.parametrize("n", [20, 64, 0, 63, -3, 100])
def test_comparisons(n):
    """Catches a bound off by one, for a rising and for a falling formula."""
    same(compared, (1,), zeros(64, dtype=torch.int32), n, 64)


@triton.jit
def divided(y, a, b, B: tl.constexpr):
    i = tl.arange(0, B) + a
    tl.store(y + tl.arange(0, B), i // b)
    tl.store(y + B + tl.arange(0, B), i % b)
    tl.store(y + 2 * B + tl.arange(0, B), (a // b) * 100 + a % b + tl.minimum(i, b) - tl.maximum(i, 7))


@pytest.mark.parametrize("a, b", [(0, 64), (0, 7), (-10, 4), (5, -3), (-7, -2), (100, 32)])
def test_division_rounds_towards_zero(a, b):
    """Catches Python's division, which rounds down."""
    same(divided, (1,), zeros(96, dtype=torch.int32), a, b, 32)


@triton.jit
def logic(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    v = tl.load(x + i)
    tl.store(y + i, (v & 15) | (i << 4) ^ (v >> 2))
    tl.store(y + B + i, tl.where((v > 0) & (i < 20) | (v == -1), -v, ~v))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_bitwise(dtype):
    """Catches a shift that changes its operand, and `|` treated as an intersection."""
    same(logic, (1,), ints(100, 32, dtype=dtype), zeros(64, dtype=dtype), 32)


# ------------------------------------------------------------------------------------- descriptors, block pointers


@triton.jit
def device_descriptor(x, y, M, N, B: tl.constexpr):
    d = tl.make_tensor_descriptor(x, [M, N], [N, 1], [B, B])
    e = tl.make_tensor_descriptor(y, [M, N], [N, 1], [B, B])
    for i in range(0, M, B):
        for j in range(0, N, B):
            e.store([i, j], d.load([i, j]) * 2)


@triton.jit
def host_descriptor(x, y, i, j):
    y.store([i, j], x.load([i, j]) + 1)


@pytest.mark.skipif(
    OLD_RANGE, reason="triton 3.6.0's interpreter cannot count over a runtime argument under numpy >= 2.4"
)
def test_device_descriptor_edges():
    """Catches a store past the edge of the tensor."""
    same(device_descriptor, (1,), rand(20, 20), zeros(24, 20)[:20], 20, 20, 16)


@pytest.mark.parametrize("padding", ["zero", "nan"])
@pytest.mark.parametrize("at", [(0, 0), (8, 8), (-4, 4), (24, 0), (-16, -16), (4, 16)])
def test_host_descriptor_edges(padding, at):
    """Catches padding on one side only, and a block that lies wholly outside."""
    x = TensorDescriptor.from_tensor(rand(20, 20), [16, 16], padding=padding)
    y = TensorDescriptor.from_tensor(zeros(20, 20), [16, 16])
    same(host_descriptor, (1,), x, y, *at)


@triton.jit
def block_pointer(x, y, M, N, B: tl.constexpr):
    p = tl.make_block_ptr(x, (M, N), (N, 1), (0, 8), (B, B), (1, 0))
    q = tl.make_block_ptr(y, (M, N), (N, 1), (0, 8), (B, B), (1, 0))
    for _ in range(2):
        tl.store(q, tl.load(p, boundary_check=(0, 1), padding_option="zero") * 2, boundary_check=(0, 1))
        p = tl.advance(p, (B, 0))
        q = tl.advance(q, (B, 0))


@pytest.mark.filterwarnings("ignore:tl.make_block_ptr is deprecated")
@pytest.mark.skipif(not hasattr(stock, "BlockPointerHandle"), reason="gone since triton 3.9")
def test_block_pointer():
    """Catches offsets that an earlier `advance` shares with a later one."""
    same(block_pointer, (1,), rand(20, 20), zeros(20, 20), 20, 20, 16)


# ------------------------------------------------------------------------------------- atomics


@triton.jit
def counted(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.atomic_add(y + i % 4, i + 1)
    tl.atomic_add(y + 4, 1)
    tl.atomic_max(y + 5 + 0 * i, i * 3, mask=i < 9)
    tl.atomic_add(y + tl.load(x + i), 1, mask=i % 2 == 0)
    old = tl.atomic_cas(y + 6, 0, 5)
    tl.atomic_xchg(y + 7, old + tl.program_id(0))


def test_atomics():
    """Catches operands that the C++ code reads as if they were contiguous."""
    same(counted, (3,), ints(8, 16), zeros(8, dtype=torch.int32), 16)


@triton.jit
def float_atomics(x, y, B: tl.constexpr):
    i = tl.arange(0, B)[:, None]
    j = tl.arange(0, B)[None, :]
    tl.atomic_add(y + j + 0 * i, tl.load(x + i * B + j), mask=(i < 9) & (j < 13))
    tl.atomic_add(y + j, tl.full((1, B), 0.5, tl.float32))


def test_float_atomics():
    """Catches a splat handed on as one element."""
    same(float_atomics, (2,), rand(16, 16), zeros(16), 16)


# ------------------------------------------------------------------------------------- reductions and scans


@triton.jit
def helper(v, s):
    return tl.sum(v, 0) * s


@triton.jit
def nested(x, y, N, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y, helper(tl.load(x + i, mask=i < N, other=0.0), 2.0))
    tl.store(y + 1, tl.max(tl.load(x + i), 0))
    tl.store(y + 2, tl.argmax(tl.load(x + i), 0))


def test_nested_jit():
    """Catches a call recorded for one argument and replayed for another."""
    same(nested, (1,), rand(32), zeros(3), 20, 32)


@triton.jit
def reduced(x, y, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    a = tl.arange(0, A)[:, None, None]
    b = tl.arange(0, B)[None, :, None]
    c = tl.arange(0, C)[None, None, :]
    v = tl.load(x + a * B * C + b * C + c)
    tl.store(y + tl.arange(0, B)[:, None] * C + tl.arange(0, C)[None, :], tl.sum(v, 0))
    y += B * C
    tl.store(y + tl.arange(0, A)[:, None] * C + tl.arange(0, C)[None, :], tl.max(v, 1) + tl.min(v, 1))
    y += A * C
    tl.store(y + a * B + b, tl.sum(v, 2, keep_dims=True))
    y += A * B
    tl.store(y, tl.sum(v) + tl.max(v) - tl.min(v) + tl.sum(tl.sum(v, 1), 0).sum(0))
    tl.store(y + 1 + tl.arange(0, A), tl.sum(tl.argmax(v, 1) * 3 - tl.argmin(v, 1), 1).to(tl.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_reductions(dtype):
    """Catches an axis off by one, and sums taken in another order."""
    same(reduced, (1,), rand(4, 8, 16, dtype=dtype), zeros(400, dtype=dtype), 4, 8, 16)


@triton.jit
def transposed_sums(x, y, B: tl.constexpr):
    i = tl.arange(0, B)[:, None]
    j = tl.arange(0, B)[None, :]
    v = tl.trans(tl.load(x + i * B + j))
    tl.store(y + tl.arange(0, B), tl.sum(v * 1.7, 0))
    tl.store(y + B + tl.arange(0, B), tl.sum(1.3 + v, 1))
    tl.store(y + 2 * B + tl.arange(0, B), tl.sum(tl.where(i < 9, v, 0.1), 0))
    tl.store(y + 3 * B + tl.arange(0, B), tl.sum(tl.full((B, B), 0.1, tl.float32), 0))
    tl.store(y + 4 * B + tl.arange(0, B), tl.sum(tl.load(x + i + 0 * j) * 1.1, 1))


def test_sums_follow_memory_order():
    """Catches a splat or a repeated row that changes the layout numpy gives the result, and so a sum's last bit."""
    same(transposed_sums, (1,), rand(64, 64), zeros(320), 64)


@triton.jit
def nan_reduced(x, y, B: tl.constexpr):
    v = tl.load(x + tl.arange(0, B))
    tl.store(y, tl.max(v, 0))
    tl.store(y + 1, tl.min(v, 0))
    tl.store(y + 2 + tl.arange(0, B), tl.maximum(v, 0.25))


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("nans", [1, 16])
def test_nan_in_reductions(nans):
    """Catches `max` that returns NaN where the stock one ignores it."""
    x = rand(16)
    x[:nans] = float("nan")
    same(nan_reduced, (1,), x, zeros(18), 16)


@triton.jit
def add_up(a, b):
    return a + b


@triton.jit
def welford(mean_a, m2_a, n_a, mean_b, m2_b, n_b):
    n = n_a + n_b
    delta = mean_b - mean_a
    return mean_a + delta * (n_b / n), m2_a + m2_b + delta * delta * n_a * n_b / n, n


@triton.jit
def scanned(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    v = tl.load(x + i)
    tl.store(y + i, tl.cumsum(tl.softmax(v), 0))
    j = tl.reshape(i, (2, B // 2))
    tl.store(y + B + j, tl.load(x + (B - 1) - j) + tl.reshape(v, (2, B // 2)))
    tl.store(y + 2 * B + i, tl.associative_scan(v, 0, add_up, reverse=True))
    tl.store(y + 3 * B + j, tl.cumprod(tl.reshape(v, (2, B // 2)), 1))


def test_scans():
    """Catches a reversed scan that turns its shared operand around in place."""
    same(scanned, (1,), rand(32), zeros(128), 32)


@triton.jit
def moments(x, y, B: tl.constexpr):
    i = tl.arange(0, B)[:, None]
    j = tl.arange(0, B)[None, :]
    v = tl.load(x + i * B + j)
    mean, m2, n = tl.reduce((v, tl.zeros_like(v), tl.full((B, B), 1.0, tl.float32)), 1, welford)
    tl.store(y + tl.arange(0, B), mean)
    tl.store(y + B + tl.arange(0, B), m2 / n)


def test_reduction_of_several_tensors():
    """Catches outputs that trade places."""
    same(moments, (1,), rand(8, 8), zeros(16), 8)


@triton.jit
def moments_everywhere(x, y, B: tl.constexpr):
    i = tl.arange(0, B)[:, None]
    j = tl.arange(0, B)[None, :]
    v = tl.load(x + i * B + j)
    one = tl.full((B, B), 1.0, tl.float32)
    mean, m2, n = tl.associative_scan((v, v * 0, one), 1, welford, reverse=True)
    tl.store(y + i * B + j, mean + m2 * 3 + n)
    flat = tl.reshape(v, (B * B,))
    mean, m2, n = tl.reduce((flat, flat * 0, flat * 0 + 1), None, welford)
    tl.store(y + B * B, mean + m2 / n)
    tl.store(y + B * B + 1 + j, tl.reduce(v.to(tl.float16), 0, halves, keep_dims=True))
    tl.store(y + B * B + 1 + B + i, tl.reduce(v, 1, larger, keep_dims=True))
    tl.store(y + B * B + 1 + 2 * B, tl.reduce(flat, 0, branching))


@triton.jit
def halves(a, b):
    return a * 0.75 + b.to(tl.float32)


@triton.jit
def larger(a, b):
    return tl.where(a > b, a, b)


@triton.jit
def branching(a, b):
    if a > b:
        return a
    return b


def test_custom_combine_functions():
    """Catches a fold in another order, a rounding left out between steps, and a branch taken once for a whole slice."""
    same(moments_everywhere, (1,), rand(8, 8), zeros(90), 8)


@triton.jit
def clipped(v, i, n):
    w = tl.where(i < n, v, 0.0)
    return v + w * 2


@triton.jit
def chained(x, y, n, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, clipped(tl.load(x + i), i, n))


@pytest.mark.parametrize("planned", [False, True])
def test_operand_that_comes_back(planned, monkeypatch):
    """Catches a plan that took an operand for the result it happened to be when the plan was made."""
    if planned:  # as a whole, as the library's functions are
        monkeypatch.setattr(clipped.fn, "__module__", "triton.language.standard")
    x, i = rand(16), torch.arange(16)
    for n in (16, 5, 0):
        y = zeros(16)
        chained[(1,)](x, y, n, 16)
        assert torch.equal(y, x + torch.where(i < n, x, 0.0) * 2)


@triton.jit
def shuffled(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    v = tl.load(x + i)
    tl.store(y + i, tl.sort(v))
    tl.store(y + B + i, tl.flip(v, 0))
    a, b = tl.split(tl.reshape(v, (B // 2, 2)))
    half = tl.arange(0, B // 2)
    tl.store(y + 2 * B + half, a * b)
    tl.store(y + 3 * B + 2 * half[:, None] + tl.arange(0, 2)[None, :], tl.join(b, a))
    tl.store(y + 4 * B + i, tl.gather(v, B - 1 - i, 0))


def test_library_functions():
    """Catches a recorded library function that returns two tensors in one place."""
    same(shuffled, (1,), rand(16), zeros(80), 16)


@triton.jit
def binned(x, y, N, B: tl.constexpr, BINS: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    h = tl.histogram(tl.load(x + i, mask=i < N, other=0), BINS)
    tl.atomic_add(y + tl.arange(0, BINS), h)


def test_histogram():
    """Catches counts of 8 bytes stored over a neighbour's 4."""
    same(binned, (4,), ints(16, 100), zeros(17, dtype=torch.int32), 100, 32, 16)


# ------------------------------------------------------------------------------------- control flow


@triton.jit
def looped(x, y, n, B: tl.constexpr):
    i = tl.arange(0, B)
    acc = tl.zeros((B,), tl.float32)
    for k in tl.range(0, 4):
        acc += tl.load(x + k * B + i)
    for k in tl.static_range(3):
        acc = acc * 1.5 + k
    k = 0
    while k < n:
        acc += k * 0.25
        k += 2
    if tl.program_id(0) == 1:
        acc = -acc
    if tl.sum(acc, 0) > 0:
        acc += 1000.0
    tl.store(y + tl.program_id(0) * B + i, acc)


@pytest.mark.parametrize("n", [0, 5])
def test_loops_and_branches(n):
    """Catches a branch on data that is recorded once and replayed for other data."""
    same(looped, (2,), rand(4, 16), zeros(2, 16), n, 16)


@triton.jit
def chosen(x, y, B: tl.constexpr):
    v = tl.load(x + tl.program_id(0))
    w = tl.load(x + 7, mask=tl.program_id(0) > 1, other=v)
    u = tl.load(x + tl.arange(0, 1), mask=tl.arange(0, 1) > tl.program_id(0) - 2, other=0.0)
    tl.store(y + 3 * tl.program_id(0), w)
    tl.store(y + 3 * tl.program_id(0) + 1 + tl.arange(0, 1), u + v)
    tl.store(y + 3 * tl.program_id(0) + 2, v * v + (v + v) - v, mask=v > 0)


def test_scalars_of_changing_truth():
    """Catches a plan that kept what `other` happened to be: stock asks a scalar `other` for its truth; also x * x."""
    x = rand(8)
    x[0] = 0.0
    same(chosen, (4,), x, zeros(12), 4)


@triton.jit
def tupled(xs, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.load(xs[0] + i) * 2 + tl.load(xs[1] + i))


def test_tuple_of_tensors():
    """Catches a launcher that converts only bare tensors."""
    xs, y = (rand(16), rand(16, 1).flatten()), zeros(16)
    tupled[(1,)](xs, y, 16)
    assert torch.equal(y, xs[0] * 2 + xs[1])


@triton.jit
def optional(x, bias, y, HAS: tl.constexpr, B: tl.constexpr = 16, half: tl.constexpr = 0.5):
    i = tl.arange(0, B)
    v = tl.load(x + i)
    if bias is not None:
        v += tl.load(bias + i)
    if HAS:
        v = v * half
    tl.store(y + i, v)


@pytest.mark.parametrize("bias", [None, rand(16)])
@pytest.mark.parametrize("has", [True, False])
def test_optional_arguments_and_defaults(bias, has):
    """Catches a launch that forgets defaults, and None."""
    same(optional, (1,), rand(16), bias, zeros(16), HAS=has)


@triton.autotune([triton.Config({"B": 32}, num_warps=2)], key=["N"])
@triton.heuristics({"EVEN": lambda args: args["N"] % args["B"] == 0})
@triton.jit
def tuned(x, y, N, B: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    if EVEN:
        tl.store(y + i, tl.load(x + i))
    else:
        tl.store(y + i, tl.load(x + i, mask=i < N), mask=i < N)


@pytest.mark.parametrize("n", [64, 70])
def test_autotune_and_heuristics(n):
    """Catches launch options of a config taken for unknown keywords, and grids that are functions."""
    same(tuned, lambda meta: (triton.cdiv(n, meta["B"]),), rand(96), zeros(96), n)


def test_hooks_run():
    """Catches a launcher that skips the hooks."""
    seen = []

    @triton.jit
    def hooked(x, B: tl.constexpr):
        tl.store(x + tl.arange(0, B), 1.0)

    hooked.add_pre_run_hook(lambda *args, **kwargs: seen.append((len(args), sorted(kwargs))))
    x = zeros(16)
    hooked[(1,)](x, B=16)
    assert seen == [(1, ["B"])] and x.sum() == 16


@triton.jit
def programs(y, nx, ny):
    x, j, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tl.store(y + (z * ny + j) * nx + x, x + 10 * j + 100 * z + 1000 * tl.num_programs(1))


def test_grid_of_three_dimensions():
    """Catches axes of the grid that trade places, and a program id folded into a plan."""
    same(programs, (2, 3, 4), zeros(24, dtype=torch.int32), 2, 3)


# ------------------------------------------------------------------------------------- whole kernels


@triton.jit
def softmax(x, y, sx, sy, N, B: tl.constexpr):
    i = tl.arange(0, B)
    v = tl.load(x + tl.program_id(0) * sx + i, mask=i < N, other=-float("inf"))
    v = tl.exp(v - tl.max(v, 0))
    tl.store(y + tl.program_id(0) * sy + i, v / tl.sum(v, 0), mask=i < N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_softmax(dtype):
    """Catches `other` of the wrong type."""
    same(softmax, (5,), rand(5, 40, dtype=torch.float32)[:, :33], zeros(5, 33), 40, 33, 33, 64)


@triton.jit
def layer_norm(x, w, b, y, N, eps, B: tl.constexpr):
    i = tl.arange(0, B)
    m = i < N
    v = tl.load(x + tl.program_id(0) * N + i, mask=m, other=0.0).to(tl.float32)
    mean = tl.sum(v, axis=0) / N
    d = tl.where(m, v - mean, 0.0)
    rstd = 1 / tl.sqrt(tl.sum(d * d, axis=0) / N + eps)
    out = d * rstd * tl.load(w + i, mask=m) + tl.load(b + i, mask=m)
    tl.store(y + tl.program_id(0) * N + i, out.to(y.dtype.element_ty), mask=m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layer_norm(dtype):
    """Catches a cast left out on the way to memory."""
    same(
        layer_norm,
        (4,),
        rand(4, 100, dtype=dtype),
        rand(100),
        rand(100, 1).flatten(),
        zeros(4, 100, dtype=dtype),
        100,
        1e-5,
        128,
    )


@triton.jit
def matmul(a, b, c, M, N, K, sam, sak, sbk, sbn, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, G: tl.constexpr):
    pid = tl.program_id(0)
    pids_m = tl.cdiv(M, BM)
    pids_n = tl.cdiv(N, BN)
    group = pid // (G * pids_n)
    first = group * G
    size = min(pids_m - first, G)
    pid_m = first + (pid % (G * pids_n)) % size
    pid_n = (pid % (G * pids_n)) // size
    offs_m = (pid_m * BM + tl.arange(0, BM)) % M
    offs_n = (pid_n * BN + tl.arange(0, BN)) % N
    offs_k = tl.arange(0, BK)
    pa = a + offs_m[:, None] * sam + offs_k[None, :] * sak
    pb = b + offs_k[:, None] * sbk + offs_n[None, :] * sbn
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        x = tl.load(pa, mask=offs_k[None, :] < K - k * BK, other=0.0)
        y = tl.load(pb, mask=offs_k[:, None] < K - k * BK, other=0.0)
        acc = tl.dot(x, y, acc)
        pa += BK * sak
        pb += BK * sbk
    m = pid_m * BM + tl.arange(0, BM)
    n = pid_n * BN + tl.arange(0, BN)
    tl.store(c + m[:, None] * N + n[None, :], acc.to(c.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_matmul_in_grouped_order(dtype, transposed):
    """Catches integer division of scalars, wraparound tiles, and pointers advanced by a scalar."""
    m, n, k = 50, 70, 40
    b = rand(n, k, dtype=dtype).T if transposed else rand(k, n, dtype=dtype)
    args = (rand(m, k, dtype=dtype), b, zeros(m, n, dtype=dtype), m, n, k, k, 1, *b.stride(), 16, 32, 16, 2)
    (_, _, c) = same(matmul, (triton.cdiv(m, 16) * triton.cdiv(n, 32),), *args)
    torch.testing.assert_close(c.float(), args[0].float() @ b.float(), rtol=2e-2, atol=2e-2)


def test_dot_uses_one_thread():
    """Catches bits that depend on the number of cores, and a setting that outlives the launch."""
    from pytriton_llama.interpreter import blas

    found = blas._openblas()
    if found is None:
        pytest.skip("numpy has another BLAS")
    read, write = found
    before, seen = read(), []

    @triton.jit
    def threads(seen: tl.constexpr):
        seen()

    write(2)
    threads[(1,)](lambda: seen.append(read()))
    assert (seen, read()) == ([1], 2)
    write(before)


@triton.jit
def int8_matmul(a, b, c, B: tl.constexpr):
    i = tl.arange(0, B)[:, None]
    j = tl.arange(0, B)[None, :]
    tl.store(c + i * B + j, tl.dot(tl.load(a + i * B + j), tl.load(b + i * B + j)))


def test_int8_dot():
    """Catches products taken in 8 bits."""
    a = ints(127, 32, 32, dtype=torch.int8)
    (_, _, c) = same(int8_matmul, (1,), a, a.T.contiguous(), zeros(32, 32, dtype=torch.int32), 32)
    assert torch.equal(c, a.int() @ a.T.int())


@triton.jit
def attention(q, k, v, o, L, scale, HD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr):
    start = tl.program_id(0) * BM
    head = tl.program_id(1) * L * HD
    m = start + tl.arange(0, BM)
    d = tl.arange(0, HD)
    x = tl.load(q + head + m[:, None] * HD + d[None, :], mask=m[:, None] < L, other=0.0)
    top = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, HD), tl.float32)
    end = tl.minimum(start + BM, L) if CAUSAL else L
    for n0 in range(0, end, BN):
        n = n0 + tl.arange(0, BN)
        y = tl.load(k + head + n[None, :] * HD + d[:, None], mask=n[None, :] < L, other=0.0)
        s = tl.dot(x, y) * scale
        keep = n[None, :] < L
        if CAUSAL:
            keep = keep & (m[:, None] >= n[None, :])
        s = tl.where(keep, s, -float("inf"))
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.math.exp2(s - new[:, None])
        alpha = tl.math.exp2(top - new)
        total = total * alpha + tl.sum(p, 1)
        w = tl.load(v + head + n[:, None] * HD + d[None, :], mask=n[:, None] < L, other=0.0)
        acc = acc * alpha[:, None] + tl.dot(p.to(w.dtype), w)
        top = new
    tl.store(
        o + head + m[:, None] * HD + d[None, :], (acc / total[:, None]).to(o.dtype.element_ty), mask=m[:, None] < L
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention(dtype, causal):
    """Catches a causal mask, which is no box, treated as one."""
    q, k, v = (rand(2, 50 + i, 32, dtype=dtype)[:, :50].contiguous() for i in range(3))
    same(attention, (4, 2), q, k, v, zeros(2, 50, 32, dtype=dtype), 50, 32**-0.5, 32, 16, 16, causal)


@triton.jit
def dropped(x, y, p, seed, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + i, tl.where(tl.rand(seed, i) > p, tl.load(x + i) / (1 - p), 0.0))


def test_random_numbers():
    """Catches integers of Philox that do not wrap."""
    same(dropped, (4,), rand(128), zeros(128), 0.5, 12345, 32)


@triton.jit
def converted(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    v = tl.load(x + i)
    tl.store(y + i, (v.to(tl.float32) * 3.0 + i).to(y.dtype.element_ty))
    tl.store(y + B + i, tl.full((B,), 2.5, tl.float32).to(y.dtype.element_ty))
    tl.store(y + 2 * B + i, (v + v).to(tl.float16).to(y.dtype.element_ty))


FLOATS = [torch.float32, torch.float16, torch.float64, torch.int8, torch.int32, torch.int64]


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_conversions(source, target):
    """Catches a splat converted to a type it already left."""
    x = rand(32).mul(20).to(source)
    same(converted, (1,), x, zeros(96, dtype=target), 32)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_values(dtype):
    """Catches 8-bit floats taken for integers."""
    x = rand(32).to(dtype)
    same(converted, (1,), x, zeros(96), 32)
