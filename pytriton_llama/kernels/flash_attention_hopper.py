"""Flash attention for sm_90, in Gluon: Triton's language with layouts, shared memory and barriers written out.

The mathematics and the names are ``flash_attention.py``'s. What decides the speed here is who waits for whom: the
tensor cores must not stand still while a softmax is computed. So

* one warp, the producer, does nothing but fetch: TMA brings queries, and rings of keys and values, to shared memory, a
  step or two before their use, and across from one block of queries to the next;
* two or three consumers, groups of four warps, own 64 queries each. A consumer starts Q·Kᵀ of the next keys together
  with P·V of the present ones, and computes the next softmax while P·V still runs; besides, the consumers are not in
  step, so that one's softmax runs beside another's products;
* a program stays on its multiprocessor and takes block after block of queries from a counter.

A ring's slot has two barriers: ``full`` and ``empty``. Step n uses slot n % STAGES. Its consumers wait until phase
n // STAGES of ``full`` has ended, its producer until the phase before that of ``empty`` has. A phase is known by its
parity, which is enough: no side can be two phases ahead of the other. Before the first phase, parity 1 counts as ended.
A consumer's queries, and the number of the block that is announced, have one place instead of a ring; their phase is i,
the number of blocks that the program has done.

One thread arrives for its whole group. Triton puts a barrier of the group in front, so that no warp of it still waits;
``tests/kernels/test_ahead_of_time.py`` looks for these.

Shah et al., "FlashAttention-3", 2024 (arXiv:2407.08608).
"""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from pytriton_llama.kernels import tiles

GROUP_M = gl.constexpr(64)  # queries of a consumer: the rows of a warp group's matrix instruction


@gluon.jit
def find_block(tile, sizes, window, CAUSAL: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr):
    """Batch, head, first query and first key of the block of queries with this number.

    Heads come in sections, whose keys and values fit into the L2 cache together. Within a section the blocks of
    queries that see most keys come first: a long one that starts last would be waited for.
    """
    num_heads, batch_heads, section, length_q, length_k = sizes
    num_pid_m = gl.cdiv(length_q, BLOCK_M)
    first_head = tile // (section * num_pid_m) * section
    section = gl.minimum(section, batch_heads - first_head)
    tile -= first_head * num_pid_m
    head = first_head + tile % section  # counted through all batches
    pid_m = tile // section
    if CAUSAL:
        pid_m = num_pid_m - 1 - pid_m
    first = 0
    if window is not None:
        first = gl.maximum(pid_m * BLOCK_M + 1 + length_k - length_q - window, 0) // BLOCK_N * BLOCK_N
    return head // num_heads, head % num_heads, pid_m * BLOCK_M, first


@gluon.jit
def count_tiles(first, stop_m, sizes, CAUSAL: gl.constexpr, BLOCK_N: gl.constexpr):
    """How many tiles of keys, from key ``first`` on, the queries before ``stop_m`` see. At least one: a query without
    keys learns so from a masked tile."""
    length_q, stop = sizes[3], sizes[4]
    if CAUSAL:
        stop = gl.minimum(stop, stop_m + stop - length_q)
    return gl.maximum(gl.cdiv(stop - first, BLOCK_N), 1)


@gluon.jit
def announce(tile, i, tile_s, barriers):
    """The producer tells the consumers which block of queries is the i-th of this program."""
    full, empty = barriers[0], barriers[1]
    mbarrier.wait(empty, (i & 1) ^ 1)
    tile_s.store(gl.full((1,), tile, gl.int32, gl.BlockedLayout([1], [32], [gl.num_warps()], [0])))
    mbarrier.arrive(full)


@gluon.jit
def take_tile(tile_s, barriers, i):
    """What the producer announced."""
    full, empty = barriers[0], barriers[1]
    mbarrier.wait(full, i & 1)
    tile = gl.max(tile_s.load(gl.BlockedLayout([1], [32], [gl.num_warps()], [0])), 0)
    mbarrier.arrive(empty)
    return tile


@gluon.jit
def producer(q_desc, k_desc, v_desc, counter_ptr, group, common, CAUSAL: gl.constexpr):
    """Announce blocks and fetch what they need."""
    _, buffers, barriers, sizes, window, num_tiles = common
    q_s, k_s, v_s, _, tile_s = buffers
    _, _, q_full, q_empty, k_full, k_empty, v_full, v_empty = barriers
    CONSUMERS: gl.constexpr = q_s.shape[0]
    STAGES: gl.constexpr = k_s.shape[0]
    BLOCK_M: gl.constexpr = GROUP_M * CONSUMERS
    BLOCK_N: gl.constexpr = k_s.shape[3]
    tile = gl.program_id(0)
    i = 0  # blocks of this program so far: phases of tile_s and q_s
    n = 0  # steps along the keys so far, of all blocks: phases of k_s and v_s
    while tile < num_tiles:
        announce(tile, i, tile_s, barriers)
        batch, head, start_m, first = find_block(tile, sizes, window, CAUSAL, BLOCK_M, BLOCK_N)
        for w in gl.static_range(CONSUMERS):
            # Not before this consumer has done with its last q (REUSE_Q: before its o has left the same place).
            mbarrier.wait(q_empty.index(w), (i & 1) ^ 1)
            mbarrier.expect(q_full.index(w), q_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                q_desc, [batch, head, start_m + w * GROUP_M, 0], q_full.index(w), q_s.index(w)
            )
        for j in range(0, count_tiles(first, start_m + BLOCK_M, sizes, CAUSAL, BLOCK_N)):
            slot = n % STAGES
            parity = (n // STAGES & 1) ^ 1  # of the phase before: what was in the slot has been used
            at = [batch, head // group, first + j * BLOCK_N, 0]
            # Say how many bytes come, then let TMA bring them; what lies outside of k comes as zeros.
            mbarrier.wait(k_empty.index(slot), parity)
            mbarrier.expect(k_full.index(slot), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(k_desc, at, k_full.index(slot), k_s.index(slot))
            mbarrier.wait(v_empty.index(slot), parity)
            mbarrier.expect(v_full.index(slot), v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(v_desc, at, v_full.index(slot), v_s.index(slot))
            n += 1
        # Fetches are on their way: the consumers are busy while the counter answers.
        tile = gl.num_programs(0) + gl.atomic_add(counter_ptr, 1)
        i += 1
    announce(tile, i, tile_s, barriers)  # one past the last: there is nothing more to do


@gluon.jit
def softmax(scores, row_max, row_sum, start_m, start_n, sizes, window, qk_scale, CAUSAL: gl.constexpr):
    """One step of the running softmax: probabilities, the new maximum and sum, and what earlier sums must be rescaled
    by. The maximum is that of the scores before ``qk_scale``: scaling and subtracting are then one instruction."""
    LAYOUT: gl.constexpr = scores.type.layout
    BLOCK_N: gl.constexpr = scores.shape[1]
    length_q, length_k = sizes[3], sizes[4]
    offset = length_k - length_q
    # Keys before full_stop are seen by all of the consumer's queries, as far as the diagonal goes.
    full_stop = length_k
    if CAUSAL:
        full_stop = gl.minimum(length_k, start_m + 1 + offset)
    masked = start_n + BLOCK_N > full_stop
    if window is not None:
        masked = masked | (start_n <= start_m + GROUP_M - 1 + offset - window)
    if masked:
        # Relative to the tile: what is compared with the keys is then one number a row, and the keys are constants.
        positions = start_m + offset - start_n + gl.arange(0, GROUP_M, gl.SliceLayout(1, LAYOUT))
        keys = gl.arange(0, BLOCK_N, gl.SliceLayout(0, LAYOUT))
        stop = length_k - start_n
        if CAUSAL:
            stop = gl.minimum(stop, positions + 1)[:, None]
        seen = keys[None, :] < stop
        if window is not None:
            seen = seen & (keys[None, :] > positions[:, None] - window)
        scores = gl.where(seen, scores, float("-inf"))
    new_max = gl.maximum(row_max, gl.max(scores, 1))
    # A query that has seen nothing yet has no maximum to shift by; −inf − (−inf) would be NaN.
    shift = gl.where(new_max == float("-inf"), 0.0, new_max * qk_scale)
    p = gl.exp2(scores * qk_scale - shift[:, None])
    rescale = gl.exp2(row_max * qk_scale - shift)
    return p, new_max, row_sum * rescale + gl.sum(p, 1), rescale


@gluon.jit
def consumer(w: gl.constexpr, o_desc, qk_scale, common, CAUSAL: gl.constexpr, REUSE_Q: gl.constexpr):
    """Attention of each tile's queries number w · 64 … w · 64 + 63."""
    lse_ptr, buffers, barriers, sizes, window, num_tiles = common
    q_s, k_s, v_s, o_s, tile_s = buffers
    _, _, q_full, q_empty, k_full, k_empty, v_full, v_empty = barriers
    CONSUMERS: gl.constexpr = q_s.shape[0]
    STAGES: gl.constexpr = k_s.shape[0]
    BLOCK_M: gl.constexpr = GROUP_M * CONSUMERS
    BLOCK_N: gl.constexpr = k_s.shape[3]
    BLOCK_D: gl.constexpr = k_s.shape[4]
    # How the four warps hold a product: 16 rows each. p must lie as the left factor of p · v.
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    ROW: gl.constexpr = gl.SliceLayout(1, S_LAYOUT)
    O_ROW: gl.constexpr = gl.SliceLayout(1, O_LAYOUT)
    dtype: gl.constexpr = q_s.dtype
    q = q_s.index(w).reshape((GROUP_M, BLOCK_D))
    zeros = gl.zeros((GROUP_M, BLOCK_N), gl.float32, S_LAYOUT)
    i = 0
    n = 0
    tile = take_tile(tile_s, barriers, i)
    while tile < num_tiles:
        batch, head, start_m, first = find_block(tile, sizes, window, CAUSAL, BLOCK_M, BLOCK_N)
        count = count_tiles(first, start_m + BLOCK_M, sizes, CAUSAL, BLOCK_N)  # what the producer brings
        start_m += w * GROUP_M
        needed = count_tiles(first, start_m + GROUP_M, sizes, CAUSAL, BLOCK_N)  # what these queries see
        acc = gl.zeros((GROUP_M, BLOCK_D), gl.float32, O_LAYOUT)
        row_max = gl.full((GROUP_M,), float("-inf"), gl.float32, ROW)
        row_sum = gl.zeros((GROUP_M,), gl.float32, ROW)

        # The first scores: of this consumer, nothing runs beside them.
        mbarrier.wait(q_full.index(w), i & 1)
        slot = n % STAGES
        mbarrier.wait(k_full.index(slot), n // STAGES & 1)
        k = k_s.index(slot).reshape((BLOCK_N, BLOCK_D))
        scores = warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(k_empty.index(slot))
        p, row_max, row_sum, rescale = softmax(
            scores, row_max, row_sum, start_m, first, sizes, window, qk_scale, CAUSAL
        )
        p = gl.convert_layout(p.to(dtype), P_LAYOUT)
        for j in range(1, needed):
            v_slot = slot
            v_parity = n // STAGES & 1
            n += 1
            slot = n % STAGES
            mbarrier.wait(k_full.index(slot), n // STAGES & 1)
            k = k_s.index(slot).reshape((BLOCK_N, BLOCK_D))
            # Two products under way: the next scores, and the present p · v behind them.
            scores = warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)
            mbarrier.wait(v_full.index(v_slot), v_parity)
            v = v_s.index(v_slot).reshape((BLOCK_N, BLOCK_D))
            acc = warpgroup_mma(p, v, acc, is_async=True)
            scores = warpgroup_mma_wait(1, deps=[scores])  # the later one, p · v, goes on beside the softmax
            mbarrier.arrive(k_empty.index(slot))
            p, row_max, row_sum, rescale = softmax(
                scores, row_max, row_sum, start_m, first + j * BLOCK_N, sizes, window, qk_scale, CAUSAL
            )
            acc = warpgroup_mma_wait(0, deps=[acc])
            mbarrier.arrive(v_empty.index(v_slot))
            # p · v was made with the old maximum, like all that acc has.
            acc = acc * gl.convert_layout(rescale, O_ROW)[:, None]
            p = gl.convert_layout(p.to(dtype), P_LAYOUT)
        # The next q may come; unless its place is needed for o.
        if not REUSE_Q:
            mbarrier.arrive(q_empty.index(w))
        # The last p · v.
        mbarrier.wait(v_full.index(slot), n // STAGES & 1)
        v = v_s.index(slot).reshape((BLOCK_N, BLOCK_D))
        acc = warpgroup_mma(p, v, acc, is_async=True)
        tma.store_wait(0)  # the last block's o has left its buffer
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_empty.index(slot))
        n += 1
        # Keys that only the other consumers' queries see: let go of them unread.
        for _j in range(needed, count):
            slot = n % STAGES
            mbarrier.wait(k_full.index(slot), n // STAGES & 1)
            mbarrier.arrive(k_empty.index(slot))
            mbarrier.wait(v_full.index(slot), n // STAGES & 1)
            mbarrier.arrive(v_empty.index(slot))
            n += 1

        if lse_ptr is not None:
            # To the natural logarithm: · ln 2. log2 0 = −inf is the empty row's.
            top = row_max * qk_scale
            # Beside a score of +inf all others are nothing; in the sum its own inf − inf is not a number.
            lse = gl.where(top == float("inf"), top, top + gl.log2(row_sum)) * 0.6931471805599453
            offs_m = start_m + gl.arange(0, GROUP_M, ROW)
            lse_ptrs = lse_ptr + (batch * sizes[0] + head).to(gl.int64) * sizes[3] + offs_m
            gl.store(lse_ptrs, lse, mask=offs_m < sizes[3])
        row_sum = gl.convert_layout(row_sum, O_ROW)
        # A query that saw no key has sum 0 and acc 0.
        acc = acc / gl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
        o_s.index(w).reshape((GROUP_M, BLOCK_D)).store(acc.to(dtype))
        fence_async_shared()  # what threads wrote must be seen by TMA
        tma.async_copy_shared_to_global(o_desc, [batch, head, start_m, 0], o_s.index(w))
        # Where o lies in q's place, the next q may come only when TMA has read it.
        if REUSE_Q:
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index(w))
        i += 1
        tile = take_tile(tile_s, barriers, i)
    tma.store_wait(0)  # shared memory must outlive the last store's reading


@gluon.jit
def make_barriers(NUM: gl.constexpr, COUNT: gl.constexpr):
    """NUM barriers; a phase ends when COUNT have arrived and all bytes that were announced have come."""
    barriers = gl.allocate_shared_memory(gl.int64, [NUM, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(NUM):
        mbarrier.init(barriers.index(i), count=COUNT)
    return barriers


@gluon.jit(do_not_specialize=["num_heads", "batch_heads", "section", "group", "length_q", "length_k", "window"])
def flash_attention_hopper_kernel(
    o_desc,
    lse_ptr,
    q_desc,
    k_desc,
    v_desc,
    counter_ptr,
    num_heads,
    batch_heads,
    section,
    group,
    length_q,
    length_k,
    window,
    qk_scale,
    CAUSAL: gl.constexpr,
    CONSUMERS: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_D: gl.constexpr,
    STAGES: gl.constexpr,
    REGISTERS: gl.constexpr,
    REUSE_Q: gl.constexpr,
):
    q_s = gl.allocate_shared_memory(q_desc.dtype, [CONSUMERS, 1, 1, GROUP_M, BLOCK_D], q_desc.layout)
    k_s = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 1, 1, BLOCK_N, BLOCK_D], k_desc.layout)
    v_s = gl.allocate_shared_memory(v_desc.dtype, [STAGES, 1, 1, BLOCK_N, BLOCK_D], v_desc.layout)
    o_s = q_s
    if not REUSE_Q:
        o_s = gl.allocate_shared_memory(o_desc.dtype, [CONSUMERS, 1, 1, GROUP_M, BLOCK_D], o_desc.layout)
    tile_s = gl.allocate_shared_memory(gl.int32, [1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    # Full and empty, of the block's number, q, k and v. Full takes one arrival, the producer's (``expect`` is one, and
    # says how many bytes TMA must bring); empty takes one of each user: a q has one, the others all consumers.
    barriers = (
        make_barriers(1, 1).index(0),
        make_barriers(1, CONSUMERS).index(0),
        make_barriers(CONSUMERS, 1),
        make_barriers(CONSUMERS, 1),
        make_barriers(STAGES, 1),
        make_barriers(STAGES, CONSUMERS),
        make_barriers(STAGES, 1),
        make_barriers(STAGES, CONSUMERS),
    )
    fence_async_shared()  # TMA must see the barriers as they were made
    sizes = (num_heads, batch_heads, section, length_q, length_k)
    num_tiles = gl.cdiv(length_q, GROUP_M * CONSUMERS) * batch_heads
    buffers = (q_s, k_s, v_s, o_s, tile_s)
    common = (lse_ptr, buffers, barriers, sizes, window, num_tiles)
    # The first consumer has the program's own four warps, and what the others leave of the registers.
    if CONSUMERS == 2:
        gl.warp_specialize(
            [
                (consumer, (0, o_desc, qk_scale, common, CAUSAL, REUSE_Q)),
                (consumer, (1, o_desc, qk_scale, common, CAUSAL, REUSE_Q)),
                (producer, (q_desc, k_desc, v_desc, counter_ptr, group, common, CAUSAL)),
            ],
            [4, 1],
            [REGISTERS, 32],
        )
    else:
        gl.warp_specialize(
            [
                (consumer, (0, o_desc, qk_scale, common, CAUSAL, REUSE_Q)),
                (consumer, (1, o_desc, qk_scale, common, CAUSAL, REUSE_Q)),
                (consumer, (2, o_desc, qk_scale, common, CAUSAL, REUSE_Q)),
                (producer, (q_desc, k_desc, v_desc, counter_ptr, group, common, CAUSAL)),
            ],
            [4, 4, 1],
            [REGISTERS, REGISTERS, 32],
        )


def launch(
    o: torch.Tensor,
    lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    qk_scale: float,
    window: int | None,
) -> None:
    """Launch the kernel on (batch, heads, length, head_dim) tensors that ``takes_gluon``, for a positive scale."""
    batch, heads, length_q, head_dim = q.shape
    kv_heads, length_k = k.shape[1:3]
    programs, section, tile = tiles.flash_attention_hopper(
        batch * heads, heads // kv_heads, length_q, length_k, head_dim, q.device
    )
    layout = gl.NVMMASharedLayout(128, 16, rank=4)

    def descriptor(t: torch.Tensor, rows: int) -> TensorDescriptor:
        return TensorDescriptor(t, list(t.shape), list(t.stride()), [1, 1, rows, tile["BLOCK_D"]], layout)

    flash_attention_hopper_kernel[(programs,)](
        descriptor(o, GROUP_M.value),
        lse,
        descriptor(q, GROUP_M.value),
        descriptor(k, tile["BLOCK_N"]),
        descriptor(v, tile["BLOCK_N"]),
        torch.zeros(1, dtype=torch.int32, device=q.device),
        heads,
        batch * heads,
        section,
        heads // kv_heads,
        length_q,
        length_k,
        window,
        qk_scale,
        CAUSAL=causal,
        **tile,
    )
