"""Right and wrong answers to notebook 05's exercises."""

import functools

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

from pytriton_llama.kernels.linear import activate, finish, grouped_tile, load_tile


@triton.jit
def geglu_kernel(
    y_ptr,
    x_ptr,
    gate_ptr,
    up_ptr,
    M,
    N,
    K,
    ACTIVATION: tl.constexpr,
    FLOOR: tl.constexpr,
    ROUNDED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    m, n = grouped_tile(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, 8)
    rows = tl.cdiv(N, BLOCK_N) * BLOCK_N if ROWS else N
    x, gate, up = (x_ptr, M, K, 1), (gate_ptr, rows, K, 1), (up_ptr, rows, K, 1)
    gate_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    steps = K // BLOCK_K if FLOOR else tl.cdiv(K, BLOCK_K)
    for step in range(steps):
        k = step * BLOCK_K
        x_tile = load_tile(x, m, k, K, False, False, False, BLOCK_M, BLOCK_K)
        gate_tile = load_tile(gate, n, k, K, False, False, False, BLOCK_N, BLOCK_K)
        up_tile = load_tile(up, n, k, K, False, False, False, BLOCK_N, BLOCK_K)
        gate_acc = tl.dot(x_tile, gate_tile.T, gate_acc, input_precision="ieee")
        up_acc = tl.dot(x_tile, up_tile.T, up_acc, input_precision="ieee")
    if ROUNDED:
        gate_acc = gate_acc.to(y_ptr.dtype.element_ty).to(tl.float32)
    if ACTIVATION == "gelu":
        acc = 0.5 * gate_acc * (1.0 + tl.erf(gate_acc * 0.7071067811865476)) * up_acc
    else:
        acc = activate(gate_acc, ACTIVATION) * up_acc
    finish(y_ptr, acc, m, n, M, N, (None, None, 0, 0.0, 0), None, False, False, BLOCK_N)


def geglu(x, gate_weight, up_weight, ACTIVATION="gelu_tanh", FLOOR=False, ROUNDED=False, ROWS=False, programs=None):
    (M, K), N = x.shape, len(gate_weight)
    y = torch.empty(M, N, dtype=x.dtype, device=x.device)
    programs = programs or triton.cdiv(M, 16) * triton.cdiv(N, 32)
    tile = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32}
    geglu_kernel[(programs,)](y, x, gate_weight, up_weight, M, N, K, ACTIVATION, FLOOR, ROUNDED, ROWS, **tile)
    return y


@triton.jit
def backward_kernel(
    dx_ptr,
    dy_ptr,
    n,
    p,
    scale,
    seed,
    SWAPPED: tl.constexpr,
    BY_POSITION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lanes = tl.arange(0, BLOCK)
    offs = tl.program_id(0) * BLOCK + lanes
    kept = tl.rand(seed, lanes if BY_POSITION else offs) >= p
    if SWAPPED:
        kept = kept == 0
    dy = tl.load(dy_ptr + offs, mask=offs < n, other=0.0)
    tl.store(dx_ptr + offs, tl.where(kept, dy * scale, 0.0), mask=offs < n)


def backward(dy, p, seed, scale=None, SWAPPED=False, BY_POSITION=False):
    dx, n = torch.empty_like(dy), dy.numel()
    scale = 1 / (1 - p) if scale is None else scale
    backward_kernel[(triton.cdiv(n, 1024),)](dx, dy, n, p, scale, seed, SWAPPED, BY_POSITION, 1024)
    return dx


def by_rows(dy, p, seed):
    return torch.cat([backward(row[None], p, seed) for row in dy])


ANSWERS = {
    "05.a": (
        lambda M, N, K, b: ((M * K + 2 * N * K + 5 * M * N) * b, (M * K + 2 * N * K + M * N) * b),
        {
            lambda M, N, K, b: ((2 * M * K + 2 * N * K + 5 * M * N) * b, (M * K + 2 * N * K + M * N) * b): "x once",
            lambda M, N, K, b: ((M * K + N * K + 5 * M * N) * b, (M * K + N * K + M * N) * b): "two of the packed",
            lambda M, N, K, b: ((M * K + 2 * N * K + 4 * M * N) * b, 0): "reads what the product has written",
            lambda M, N, K, b: ((M * K + 2 * N * K + 3 * M * N) * b, 0): "silu · mul writes its result",
            lambda M, N, K, b: ((M * K + 2 * N * K + 2 * M * N) * b, 0): "both halves written, read again",
            lambda M, N, K, b: ((M * K + 2 * N * K + 5 * M * N) * b,) * 2: "stay in registers",
            lambda M, N, K, b: (
                (M * K + 2 * N * K + 5 * M * N) * b,
                (2 * M * K + 2 * N * K + M * N) * b,
            ): "swiglu reads x once, too",
            lambda M, N, K, b: (M * K + 2 * N * K + 5 * M * N, M * K + 2 * N * K + M * N): "2 bytes each",
        },
    ),
    "05.b": (
        geglu,
        {
            lambda x, gate_weight, up_weight: F.gelu(x @ gate_weight.T, approximate="tanh") * (x @ up_weight.T): (
                "no kernel of yours was launched"
            ),
            functools.partial(geglu, ACTIVATION="silu"): "silu's curve",
            lambda x, gate_weight, up_weight: geglu(x, up_weight, gate_weight): "goes on gate",
            functools.partial(geglu, ACTIVATION="gelu"): "the tanh form",
            functools.partial(geglu, ACTIVATION=None): "16 tokens",
            functools.partial(geglu, programs=1): "several tiles",
            functools.partial(geglu, ROWS=True): "an access outside of a tensor",
            functools.partial(geglu, FLOOR=True): "is there a last step",
            functools.partial(geglu, ROUNDED=True): "stay in 32 bits",
        },
    ),
    "05.c": (
        backward,
        {
            lambda dy, p, seed: F.dropout(dy, p): "no kernel of yours was launched",
            functools.partial(backward, SWAPPED=True): "where the element was dropped",
            functools.partial(backward, scale=1.0): "and so is its gradient",
            functools.partial(backward, scale=4.0): "not by p",
            lambda dy, p, seed: backward(dy, 1 - p, seed): "16 elements",
            lambda dy, p, seed: backward(dy, p, 7): "another seed",
            functools.partial(backward, BY_POSITION=True): "index in the whole tensor",
            by_rows: "rows go on counting",
        },
    ),
}
