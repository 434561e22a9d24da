"""Right and wrong answers to notebook 08's exercises."""

import functools

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels.flash_attention import attend


def seen_tiles(length, sinks, window, BLOCK_N, whole=False, twice=False, first_key=False, clip=True, past=False):
    first = max(length - window, 0) if clip else length - window
    if not first_key:
        first = first // BLOCK_N * BLOCK_N
    if whole:
        sinks = sinks // BLOCK_N * BLOCK_N
    stop = sinks if twice else min(sinks, first)
    if past and sinks > length:
        return list(range(0, sinks, BLOCK_N))
    return [*range(0, stop, BLOCK_N), *range(first, length, BLOCK_N)]


@triton.jit
def paged_kernel(
    o_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    table_ptr,
    lengths_ptr,
    table_stride,
    qk_scale,
    ONE_PAGE: tl.constexpr,
    TABLE: tl.constexpr,
    ONE_ROW: tl.constexpr,
    WHOLE: tl.constexpr,
    GROUP: tl.constexpr,
    STORED: tl.constexpr,
    D: tl.constexpr,
    PAGE: tl.constexpr,
):
    sequence = tl.program_id(0)
    length = tl.load(lengths_ptr + sequence)
    offs_g, offs_d = tl.arange(0, 16), tl.arange(0, D)
    mask = (offs_g < GROUP)[:, None]
    q_offs = (sequence * GROUP + offs_g)[:, None] * D + offs_d[None, :]
    q = tl.load(q_ptr + q_offs, mask=mask, other=0.0)
    acc = tl.zeros((16, D), tl.float32)
    row_max = tl.full((16,), float("-inf"), tl.float32)
    row_sum = tl.zeros((16,), tl.float32)
    for start in range(0, PAGE if ONE_PAGE else length, PAGE):
        page = start // PAGE
        if TABLE:
            page = tl.load(table_ptr + (0 if ONE_ROW else sequence) * table_stride + page)
        stop = PAGE if WHOLE else tl.minimum(length - start, PAGE)
        acc, row_max, row_sum = attend(
            acc, row_max, row_sum, q, k_ptr + page * PAGE * D, v_ptr + page * PAGE * D, D, D, offs_g,
            0, stop, stop, None, qk_scale,
            True, False, D, PAGE, D,
        )  # fmt: skip
    tl.store(o_ptr + q_offs, acc / row_sum[:, None], mask=mask & (offs_g < STORED)[:, None])


def paged(q, k_pages, v_pages, table, lengths, ONE_PAGE=False, TABLE=True, ONE_ROW=False, WHOLE=False, STORED=16):
    o, (batch, group, d) = torch.empty_like(q), q.shape
    scale = d**-0.5 * 1.4426950408889634
    tensors = (o, q, k_pages, v_pages, table, lengths)
    paged_kernel[(batch,)](*tensors, table.shape[1], scale, ONE_PAGE, TABLE, ONE_ROW, WHOLE, group, STORED, d, PAGE=16)
    return o


def in_torch(q, k_pages, v_pages, table, lengths):
    k, v = k_pages[table[0]].flatten(0, 1), v_pages[table[0]].flatten(0, 1)
    return torch.softmax(q @ k.T * q.shape[2] ** -0.5, -1) @ v


ANSWERS = {
    "08.a": (
        seen_tiles,
        {
            functools.partial(seen_tiles, first_key=True): "no sinks",
            lambda length, sinks, window, BLOCK_N: seen_tiles(length, 0, window, BLOCK_N): "sinks of whole tiles",
            functools.partial(seen_tiles, whole=True): "end within a tile",
            functools.partial(seen_tiles, twice=True): "each tile once",
            functools.partial(seen_tiles, clip=False): "longer than the text",
            functools.partial(seen_tiles, past=True): "no tile without a key",
        },
    ),
    "08.b": (
        paged,
        {
            in_torch: "no kernel of yours was launched",
            functools.partial(paged, ONE_PAGE=True): "three full pages",
            functools.partial(paged, TABLE=False): "pages 4, 0 and 2",
            functools.partial(paged, WHOLE=True): "the last page has 5 keys",
            functools.partial(paged, ONE_ROW=True): "each has its row",
            functools.partial(paged, STORED=4): "9 queries",
        },
    ),
    "08.c": (
        lambda: [0, 100, 300],
        {
            lambda: [0, 1, 16, 17, 100]: "one to four lengths",
            lambda: [500]: "from 0 to 400",
            lambda: [400, 64]: "no piece",
            lambda: [32, 64]: "past a length",
            lambda: [0, 33, 33, 33]: "overlap by a key",
            lambda: [400, 0]: "from piece 0",
            lambda: [0, 400]: "rounds steps down",
        },
    ),
}
