"""Right and wrong answers to notebook 02's exercises."""

import functools

import torch
import triton
import triton.language as tl


def asked_for(M, N, K, BLOCK_M, BLOCK_N, itemsize):
    loaded = M * K * triton.cdiv(N, BLOCK_N) + N * K * triton.cdiv(M, BLOCK_M)
    return loaded * itemsize, M * N * itemsize


def overhang_counted(M, N, K, BLOCK_M, BLOCK_N, itemsize):
    programs = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
    return programs * (BLOCK_M + BLOCK_N) * K * itemsize, M * N * itemsize


def overhang_stored(M, N, K, BLOCK_M, BLOCK_N, itemsize):
    programs = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
    return asked_for(M, N, K, BLOCK_M, BLOCK_N, itemsize)[0], programs * BLOCK_M * BLOCK_N * itemsize


def even_only(M, N, K, BLOCK_M, BLOCK_N, itemsize):
    return M * N // (BLOCK_M * BLOCK_N) * (BLOCK_M + BLOCK_N) * K * itemsize, M * N * itemsize


def each_byte_once(M, N, K, BLOCK_M, BLOCK_N, itemsize):
    return (M + N) * K * itemsize, M * N * itemsize


def the_other_way_round(M, N, K, BLOCK_M, BLOCK_N, itemsize):
    loaded = M * K * triton.cdiv(M, BLOCK_M) + N * K * triton.cdiv(N, BLOCK_N)
    return loaded * itemsize, M * N * itemsize


def snake(tile, num_pid_m, num_pid_n, GROUP_M, UP=1):
    group, within = divmod(tile, GROUP_M * num_pid_n)
    rows = min(num_pid_m - group * GROUP_M, GROUP_M)
    column, row = divmod(within, rows)
    if column % 2 == UP:
        row = rows - 1 - row
    return group * GROUP_M + row, column


def wrong_end(tile, num_pid_m, num_pid_n, GROUP_M):
    """Tiles of the last group counted right, its odd columns from a full group's end."""
    group, within = divmod(tile, GROUP_M * num_pid_n)
    column, row = divmod(within, min(num_pid_m - group * GROUP_M, GROUP_M))
    return group * GROUP_M + (GROUP_M - 1 - row if column % 2 else row), column


def from_the_right(tile, num_pid_m, num_pid_n, GROUP_M):
    """Every other group walks back from the last column."""
    row, column = snake(tile, num_pid_m, num_pid_n, GROUP_M)
    return row, num_pid_n - 1 - column if row // GROUP_M % 2 else column


@triton.jit
def batched_kernel(
    y_ptr,
    x_ptr,
    weight_ptr,
    M,
    N,
    K,
    MASK_M: tl.constexpr,
    SAME: tl.constexpr,
    BLOCK: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    offs_m = tl.program_id(0) // tl.cdiv(N, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    offs_n = tl.program_id(0) % tl.cdiv(N, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    x_ptr += batch * M * K
    if not SAME:
        weight_ptr += batch * N * K
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        offs_k = k + tl.arange(0, BLOCK)
        mask_k = offs_k[None, :] < K
        x = tl.load(x_ptr + offs_m[:, None] * K + offs_k[None, :], mask=(offs_m[:, None] < M) & mask_k, other=0.0)
        weight = tl.load(
            weight_ptr + offs_n[:, None] * K + offs_k[None, :], mask=(offs_n[:, None] < N) & mask_k, other=0.0
        )
        acc = tl.dot(x, weight.T, acc, input_precision="ieee")
    mask = offs_n[None, :] < N
    if MASK_M:
        mask = mask & (offs_m[:, None] < M)
    tl.store(y_ptr + batch * M * N + offs_m[:, None] * N + offs_n[None, :], acc, mask=mask)


def batched(x, weight, MASK_M=True, SAME=False, tiles=None):
    (B, M, K), N = x.shape, weight.shape[1]
    y = torch.empty(B, M, N, device=x.device)
    grid = (tiles or triton.cdiv(M, 32) * triton.cdiv(N, 32), B)
    batched_kernel[grid](y, x, weight, M, N, K, MASK_M, SAME, BLOCK=32)
    return y


ANSWERS = {
    "02.a": (
        asked_for,
        {
            lambda *sizes: asked_for(*sizes[:-1], 1): "bytes, not elements",
            each_byte_once: "each program loads for itself",
            the_other_way_round: "as many as there are tiles side by side",
            even_only: "round up",
            overhang_counted: "masked-off lanes load nothing",
            overhang_stored: "masked-off lanes store nothing",
        },
    ),
    "02.b": (
        snake,
        {
            lambda *sizes: snake(*sizes)[::-1]: "down first",
            functools.partial(snake, UP=0): "go down column 0",
            functools.partial(snake, UP=2): "not the one at the top",
            wrong_end: "from which end do its odd columns start",
            from_the_right: "the second group starts at column 0",
        },
    ),
    "02.c": (
        batched,
        {
            lambda x, weight: x @ weight.transpose(1, 2): "no kernel of yours was launched",
            functools.partial(batched, SAME=True): "all three have to be shifted",
            functools.partial(batched, MASK_M=False): "an access outside of a tensor",
            functools.partial(batched, tiles=1): "it is version 3",
        },
    ),
}
