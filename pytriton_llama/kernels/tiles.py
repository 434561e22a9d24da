"""Tile sizes, the one place where they are chosen.

The same kernel source runs compiled and interpreted; only the tiles differ. On a GPU a tile must fit into registers
and shared memory: every tile here stays below the 64 KB of the smallest supported card (T4). In the interpreter each
Triton operation costs ten microseconds of Python or more, whatever its size, so a few large tiles win.

Each function returns the keyword arguments of a launch.
"""

import functools
import math

import torch
import triton

from pytriton_llama.kernels.quantized_weight import QuantizedWeight
from pytriton_llama.runtime import capability, has_tma, interpreted

# Elements of an interpreted program's tile of rows, and of a weight's (Triton allows 2²⁰).
INTERPRETED_ROWS = 1 << 16
INTERPRETED_WEIGHT = 1 << 19
# The longest row that an interpreted program takes as one block, and the blocks in which it walks along longer ones.
INTERPRETED_ROW, INTERPRETED_WALK = 32768, 16384

# How a GPU program takes its row: (columns up to, block, warps). Block 0 is one block for the whole row, else it walks
# along the row in such blocks. Measured on an H100 in 16 bits. A whole row is read once, but where padding to a power
# of two is large, or where the row leaves too few registers for a second program on the same processor, a second
# reading out of the cache costs less.
ANY = 1 << 62
ROWS = {
    "softmax": ((8192, 0, 0), (12288, 4096, 8), (16384, 0, 0), (24576, 8192, 16), (81920, 16384, 16), (ANY, 32768, 32)),
    "rms_norm": ((16384, 0, 0), (65536, 32768, 32), (ANY, 65536, 32)),
    "layer_norm": (
        (8192, 0, 0),
        (12288, 4096, 8),
        (16384, 0, 0),
        (28672, 8192, 8),
        (32768, 0, 0),
        (57344, 16384, 16),
        (ANY, 32768, 32),
    ),
}
# The same where a thread has fewer registers to spare: float32 rows, and GPUs other than sm_90.
TIGHT_ROWS = {
    "softmax": ROWS["softmax"],
    "rms_norm": ((16384, 0, 0), (ANY, 16384, 32)),
    "layer_norm": ((8192, 0, 0), (12288, 4096, 8), (16384, 0, 0), (28672, 8192, 8), (ANY, 16384, 32)),
}
# A tile of whole rows, by the padded row: (rows a program, warps). Short rows share a program, so that it has something
# to hide latency with. 16 elements a thread are two loads of 16 bytes; from 16384 columns on, more threads would leave
# each too few registers.
WHOLE = {512: (2, 2), 1024: (2, 4), 2048: (1, 4), 4096: (1, 8), 8192: (1, 16), 16384: (1, 16), 32768: (1, 32)}
WHOLE_LAYER_NORM = WHOLE | {512: (4, 2), 1024: (1, 2), 2048: (2, 8), 16384: (1, 8)}
# The same for rows that may start at any element, which are loaded one by one. What pays then is many loads a thread
# and, for the norms, two rows a program, which share the loads of the weight.
ODD = {512: (1, 2), 1024: (1, 2), 2048: (1, 4), 4096: (1, 4), 8192: (1, 8), 16384: (1, 4)}
ODD_NORM = {512: (2, 2), 1024: (2, 2), 2048: (2, 4), 4096: (2, 4), 8192: (2, 4), 16384: (2, 8)}
ODD_ADD = ODD | {4096: (1, 8), 16384: (1, 8)}
# … and where registers are tight.
ODD_TIGHT = {512: (1, 2), 1024: (1, 2), 2048: (1, 4), 4096: (1, 8), 8192: (1, 8)}
# An element-wise program's share of a row.
ELEMENTWISE = {"BLOCK_M": 1, "BLOCK_N": 1024, "num_warps": 8}


def rows(op: str, M: int, N: int, strides: tuple[int, ...], x: torch.Tensor) -> tuple[tuple[int], dict]:
    """Grid and tile of softmax or a norm over M rows of N columns, as a matrix like ``x``.

    ``strides`` are (row, column) strides of everything that is read. A tile whose BLOCK_N is less than N is one that
    walks. ALIGN divides N and the row strides: so many elements, 16 bytes at most, a thread may load at once.
    """
    if interpreted():
        BLOCK_N = triton.next_power_of_2(N) if N <= INTERPRETED_ROW else INTERPRETED_WALK
        BLOCK_M = min(triton.next_power_of_2(M), max(1, INTERPRETED_ROWS // BLOCK_N))
        tile = {"ALIGN": _align(N, strides, x.element_size()), "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N}
    else:
        tile = _compiled_rows(op, N, strides, x.element_size(), capability(x.device))
    return (-(-M // tile["BLOCK_M"]),), tile


def _align(N: int, strides: tuple[int, ...], itemsize: int) -> int:
    unit_columns = all(stride == 1 for stride in strides[1::2])
    return math.gcd(N, *strides[::2], 16 // itemsize) if unit_columns else 1


@functools.lru_cache(4096)  # a decode step asks a hundred times for the same
def _compiled_rows(op: str, N: int, strides: tuple[int, ...], itemsize: int, arch: tuple[int, int]) -> dict:
    roomy = itemsize == 2 and arch == (9, 0)
    ALIGN = _align(N, strides, itemsize)
    padded = max(16, triton.next_power_of_2(N))
    BLOCK_M, BLOCK_N, maxnreg = 1, padded, None
    if any(stride != 1 for stride in strides[1::2]):
        # A column's neighbours in memory are other rows: 16 of them fill the 32 bytes that memory hands out at once.
        BLOCK_M, BLOCK_N, num_warps = 16, min(padded, 256), 8
    elif ALIGN == 1:
        odd = ODD if op == "softmax" else ODD_TIGHT if not roomy else ODD_ADD if op == "add_rms_norm" else ODD_NORM
        if padded <= max(odd):
            BLOCK_M, num_warps = odd[max(512, padded)]
        else:
            BLOCK_N, num_warps = (8192, 8 if N <= 32768 else 32) if op == "softmax" else (4096, 16)
    else:
        table = (ROWS if roomy else TIGHT_ROWS)["rms_norm" if op == "add_rms_norm" else op]
        block, num_warps = next((block, warps) for columns, block, warps in table if columns >= N)
        if block:
            BLOCK_N = block
        else:
            BLOCK_M, num_warps = (WHOLE_LAYER_NORM if op == "layer_norm" and roomy else WHOLE)[max(512, padded)]
            if op == "layer_norm" and roomy and padded == 16384:
                maxnreg = 128  # the compiler takes 127 or 150; above 128 no second program fits the processor
    BLOCK_M *= max(1, 512 // padded)  # rows shorter than the tables' shortest
    tile = {"ALIGN": ALIGN, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "num_warps": num_warps}
    return tile if maxnreg is None else tile | {"maxnreg": maxnreg}


def elementwise(M: int, N: int) -> dict:
    """Pieces of rows of N columns, for what needs no sum over a row."""
    if interpreted():
        BLOCK_N = min(triton.next_power_of_2(N), INTERPRETED_ROWS)
        return {"BLOCK_M": min(triton.next_power_of_2(M), max(1, INTERPRETED_ROWS // BLOCK_N)), "BLOCK_N": BLOCK_N}
    return ELEMENTWISE


@functools.lru_cache(4096)
def linear(
    M: int, N: int, K: int, dtype: torch.dtype, device: torch.device, tma: bool, tma_y: bool, dropout: bool
) -> tuple[int, int, int, dict]:
    """Programs to launch; how many tiles are made whole; into how many pieces the others are cut; the tile."""
    if tma and not interpreted():
        programs, whole, splits, tile = _tma_linear(M, N, K, dropout, multiprocessors(device))
    else:
        tile = _interpreted_linear(M, N, K) if interpreted() else _pointer_linear(M, dtype, dropout)
        tile |= {"PERSISTENT": False, "SWAP": False}
        programs = whole = -(-M // tile["BLOCK_M"]) * -(-N // tile["BLOCK_N"])
        splits = 1
    return programs, whole, splits, tile | {"WIDTH": _width(tile, dtype, tma_y)}


def _width(tile: dict, dtype: torch.dtype, tma_y: bool) -> int:
    """How many columns of sums become y at a time. TMA takes shared memory for them, pointers take registers."""
    return tile["BLOCK_N"] if interpreted() else min(tile["BLOCK_N"], 64 if tma_y or dtype == torch.float32 else 16)


def _pointer_linear(M: int, dtype: torch.dtype, dropout: bool) -> dict:
    if dtype == torch.float32:
        tile = (32 if M > 16 else 16, 64, 32, 8, 3)
    elif M <= 16:
        tile = (16, 64, 128, 4, 3)
    elif M <= 64 or dropout:  # random numbers need registers of their own
        tile = (64, 64, 64, 8 if dropout else 4, 3)
    else:
        tile = (128, 128, 32, 8, 3)
    return _matmul_tile(*tile)


def _matmul_tile(BLOCK_M: int, BLOCK_N: int, BLOCK_K: int, num_warps: int, num_stages: int) -> dict:
    # The tiles that are made at one time should cover about a square of y: then the fewest rows of x and of the weight
    # are read for them.
    GROUP_M = 16 if BLOCK_N > BLOCK_M else 8
    blocks = {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "GROUP_M": GROUP_M}
    return blocks | {"num_warps": num_warps, "num_stages": num_stages}


# Tiles for TMA: (BLOCK_M, BLOCK_N, BLOCK_K, warps, stages), and the microseconds that one takes of an H100's
# processor: before and after its walk along K, and a step of it. Fitted to the times of 89 shapes from 256³ to
# 8192 × 28672 × 4096: the cheapest by this count is on average within 1 % of the fastest that was measured.
TMA_TILES = {
    (128, 256, 64, 8, 4): (3.92, 0.694),
    (128, 128, 64, 4, 5): (2.44, 0.368),
    (64, 128, 128, 4, 4): (1.91, 0.486),
    (64, 64, 128, 4, 5): (1.64, 0.255),
    (64, 32, 256, 4, 4): (1.27, 0.306),
    (16, 64, 256, 4, 4): (3.62, 0.451),
}
# What cutting tiles into pieces costs besides: a second launch, and each megabyte of sums that it reads.
TMA_SUM = 3.4, 0.44


def _tma_linear(M: int, N: int, K: int, dropout: bool, sms: int) -> tuple[int, int, int, dict]:
    plans = []
    for sizes, (around, step) in TMA_TILES.items():
        BLOCK_M, BLOCK_N, BLOCK_K, num_warps, _ = sizes
        area = BLOCK_M * BLOCK_N
        # Random numbers need registers of their own.
        if (BLOCK_M == 16) != (M <= 16) or (dropout and area > 1024 * num_warps):
            continue
        count, steps = -(-M // BLOCK_M) * -(-N // BLOCK_N), -(-K // BLOCK_K)
        rounds, rest = divmod(count, sms)
        for splits in (1, 2, 3, 4, 6, 8):
            pieces = rest * splits
            if splits > 1 and (steps < 2 * splits or not 0 < pieces <= sms * (1 if rounds else 2)):
                continue
            time = rounds * (around + step * steps) + -(-pieces // sms) * (around + step * -(-steps // splits))
            if splits > 1:
                time += TMA_SUM[0] + TMA_SUM[1] * 4e-6 * pieces * area
            plans.append((time, sizes, rounds, count, splits))
    _, sizes, rounds, count, splits = min(plans)
    tile = _matmul_tile(*sizes) | {"PERSISTENT": sizes[0] == 128, "SWAP": sizes[0] == 16}
    if splits > 1:
        return max((count - rounds * sms) * splits, min(rounds, 1) * sms), rounds * sms, splits, tile
    return min(count, sms) if tile["PERSISTENT"] else count, count, 1, tile


@functools.cache
def dependent(device: torch.device) -> dict:
    """Launch arguments by which programs may start before the previous kernel has finished: GPUs from sm_90 on."""
    return {"PDL": True, "launch_pdl": True} if has_tma(device) else {"PDL": False}


@functools.cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


# swiglu's tiles for TMA: rows up to, (BLOCK_M, BLOCK_N of each weight, BLOCK_K, warps, stages).
TMA_SWIGLU = {
    16: (16, 32, 256, 4, 4),
    64: (64, 64, 128, 4, 3),
    128: (128, 64, 64, 4, 5),
    ANY: (128, 128, 64, 8, 4),
}


@functools.lru_cache(4096)
def swiglu(
    M: int, N: int, K: int, dtype: torch.dtype, device: torch.device, tma: bool, tma_y: bool
) -> tuple[int, dict]:
    """Programs to launch, and a tile as :func:`linear`'s; two weights' tiles must fit into shared memory."""
    if interpreted():
        tile = _interpreted_linear(M, N, K)
    elif tma:
        # sm_100 keeps more of it, and of the registers, for itself.
        most = ANY if capability(device) == (9, 0) else 64
        tile = _matmul_tile(*next(sizes for rows, sizes in TMA_SWIGLU.items() if rows >= min(M, most)))
    elif dtype == torch.float32:
        tile = _matmul_tile(32 if M > 16 else 16, 32, 32, 8, 3)
    elif M <= 64:
        tile = _matmul_tile(16, 64, 64, 8, 2) if M <= 16 else _matmul_tile(64, 64, 64, 4, 2)
    else:
        tile = _matmul_tile(128, 64, 32, 8, 3)
    count = -(-M // tile["BLOCK_M"]) * -(-N // tile["BLOCK_N"])
    tile |= {"PERSISTENT": tma and tile["BLOCK_M"] == 128, "WIDTH": _width(tile, dtype, tma_y)}
    return min(count, multiprocessors(device)) if tile["PERSISTENT"] else count, tile


def _interpreted_linear(M: int, N: int, K: int) -> dict:
    BLOCK_M = min(128, triton.next_power_of_2(M))
    BLOCK_K = max(16, min(512, triton.next_power_of_2(K)))
    # A step that divides K needs no mask along K; a small one would not be worth that.
    if K and (divisor := K & -K) >= 256:
        BLOCK_K = min(512, divisor)
    BLOCK_N = min(triton.next_power_of_2(N), INTERPRETED_WEIGHT // BLOCK_K)
    return {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "GROUP_M": 8}


def rotary_embedding(batch: int, length: int, q_heads: int, k_heads: int, head_dim: int) -> dict:
    """Positions a program: all heads of one on a GPU, as many as make a tile in the interpreter."""
    tile = _rotary_heads(q_heads, k_heads, head_dim)
    if interpreted():
        elements = max(tile["BLOCK_Q"], tile["BLOCK_K"]) * tile["BLOCK_HALF"]
        return {**tile, "BLOCK_L": min(triton.next_power_of_2(length), max(1, INTERPRETED_ROWS // elements))}
    # A decode step's few positions leave the GPU empty: many threads each. A prompt fills it with small programs.
    return {**tile, "BLOCK_L": 1, "num_warps": 8 if batch * length < 512 else 1 if head_dim <= 64 else 4}


@functools.cache
def _rotary_heads(q_heads: int, k_heads: int, head_dim: int) -> dict:
    BLOCK_Q, BLOCK_K, BLOCK_HALF = (triton.next_power_of_2(max(1, n)) for n in (q_heads, k_heads, head_dim // 2))
    return {"BLOCK_Q": BLOCK_Q, "BLOCK_K": BLOCK_K, "BLOCK_HALF": BLOCK_HALF}


def flash_attention(length_q: int, length_k: int, head_dim: int, q: torch.Tensor) -> dict:
    """BLOCK_M queries against BLOCK_N keys at a time."""
    BLOCK_D = max(16, triton.next_power_of_2(head_dim))
    if interpreted():
        BLOCK_M = min(256, max(16, triton.next_power_of_2(length_q)))
        return {
            "BLOCK_M": BLOCK_M,
            "BLOCK_N": min(256, max(16, triton.next_power_of_2(length_k))),
            "BLOCK_D": BLOCK_D,
        }
    # float32 has no tensor cores under "ieee": the products are done in registers, of which more warps have more.
    if q.dtype == torch.float32:
        M, N, warps, stages = {
            16: (64, 32, 4, 2),
            32: (64, 32, 4, 2),
            64: (64, 16, 8, 2),
            128: (32, 16, 8, 1),
            256: (16, 16, 8, 1),
        }[BLOCK_D]
    else:
        arch = capability(q.device)
        # sm_75 and AMD have too little shared memory for three stages; sm_120 would spill with more queries.
        small = (64 if arch == (12, 0) else 128, 64, 4, 3 if (8, 0) <= arch <= (9, 0) else 2)
        M, N, warps, stages = {
            16: small,
            32: small,
            64: small,
            # What sm_90 takes would spill on the others; on sm_86 and sm_89 what these take would, too.
            128: {(9, 0): (64, 64, 4, 3), (8, 6): (64, 64, 8, 2), (8, 9): (64, 64, 8, 2)}.get(arch, (64, 32, 4, 2)),
            256: (32, 32, 4, 1),
        }[BLOCK_D]
    return {"BLOCK_M": M, "BLOCK_N": N, "BLOCK_D": BLOCK_D, "num_warps": warps, "num_stages": stages}


# Bytes of keys and values that are worth finishing before others are fetched: a part of the L2 cache.
SECTION = 8 << 20


def flash_attention_hopper(
    batch_heads: int, group: int, length_q: int, length_k: int, head_dim: int, device: torch.device
) -> tuple[int, int, dict]:
    """Programs to launch, heads a section, and the tile of the Gluon kernel.

    CONSUMERS × 64 queries against BLOCK_N keys at a time. Three consumers hide more, but waste more where queries are
    few, and have registers enough only at head_dim 64. REUSE_Q: no shared memory is left for o.
    """
    BLOCK_D = max(64, triton.next_power_of_2(head_dim))
    CONSUMERS = 3 if BLOCK_D == 64 and length_q > 4096 else 2
    tile = {
        "CONSUMERS": CONSUMERS,
        "BLOCK_N": 64 if BLOCK_D == 256 else 128,
        "BLOCK_D": BLOCK_D,
        "STAGES": 3 if BLOCK_D == 64 else 2,
        "REGISTERS": 160 if CONSUMERS == 3 else 240,
        "REUSE_Q": BLOCK_D == 256,
    }
    count = -(-length_q // (64 * CONSUMERS)) * batch_heads
    section = min(batch_heads, max(1, SECTION // (4 * length_k * head_dim)) * group)
    return min(count, multiprocessors(device)), section, tile


def flash_decoding(
    batch: int, kv_heads: int, group: int, max_length: int, head_dim: int, q: torch.Tensor
) -> tuple[int, dict]:
    """Into how many pieces a key/value head's keys are cut, all sequences together, and a piece's steps.

    ``group`` is the number of query heads of each key/value head; each sequence but one may have a piece more, one that
    is not full. MIN_STEPS · BLOCK_N keys are not worth cutting. Measured on an H100 in bfloat16.
    """
    BLOCK_D = max(16, triton.next_power_of_2(head_dim))
    BLOCK_G = triton.next_power_of_2(group)
    tile = {"BLOCK_B": triton.next_power_of_2(batch), "BLOCK_D": BLOCK_D}
    if interpreted():
        BLOCK_N = min(512, max(16, triton.next_power_of_2(max_length)))
        return 1, tile | {"BLOCK_N": BLOCK_N, "BLOCK_G": BLOCK_G, "MIN_STEPS": 1}
    a_round = max(1, multiprocessors(q.device) // kv_heads)  # a program on each multiprocessor
    pieces = max(a_round, min(2 * batch, 2 * a_round), batch)
    long = max_length > 2048
    # A program alone on its multiprocessor needs much under way; where several share it, they have it together.
    alone = batch * kv_heads <= 64
    BLOCK_N, num_stages, MIN_STEPS = (128, 3, 4) if long else (128, 2, 2)
    if not alone:
        BLOCK_N, num_stages = 64, 256 // BLOCK_D
    elif BLOCK_D == 128:
        BLOCK_N, num_stages, MIN_STEPS = (64, 2, 1) if max_length <= 512 else (128, 3, MIN_STEPS)
    arch = capability(q.device)
    if q.dtype == torch.float32:
        BLOCK_N, num_stages = max(16, 2048 // BLOCK_D), 1
    elif BLOCK_D == 256 or arch not in ((8, 0), (9, 0)):
        BLOCK_N, num_stages = max(16, min(64, 4096 // BLOCK_D)), 2 if arch >= (8, 0) else 1
    elif BLOCK_D == 128 and arch == (8, 0):
        num_stages = 2
    # 16: the fewest rows that a tensor core takes.
    tile |= {"BLOCK_N": BLOCK_N, "BLOCK_G": max(16, BLOCK_G), "MIN_STEPS": MIN_STEPS}
    return pieces, tile | {"num_warps": 8 if BLOCK_D == 256 else 4, "num_stages": num_stages}


# More rows than these are linear's, with a norm of its own.
DECODE_ROWS = 16


@functools.lru_cache(4096)
def decode_linear(M: int, N: int, K: int, weights: int, dtype: torch.dtype, device: torch.device) -> dict:
    """Rows of each of one or two weights a program, and how much of them at a time.

    Measured on an H100 in bfloat16, in the steps of models with a hidden_size of 576, 2048 and 4096.
    """
    if interpreted():
        return _interpreted_decode(M, N, K)
    if M > 1:
        SLICES, BLOCK_N, BLOCK_K, num_stages = 4, 16, 256, 4
        if dtype == torch.float32 or capability(device) < (8, 0):
            SLICES, BLOCK_N, BLOCK_K, num_stages = 4, 16, 64, 2
        elif N * weights >= 8192:  # programs enough; wgmma takes 64 rows
            SLICES, BLOCK_N, BLOCK_K, num_stages = 2, 32, 128, 2
            if capability(device) == (9, 0):
                SLICES, BLOCK_N, BLOCK_K, num_stages = 1, 64, 128 // weights, 4
        tile = {"SLICES": SLICES, "BLOCK_M": 16, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K}
        # float32 has no tensor cores under "ieee": the products are done in registers, of which more warps have more.
        num_warps = {1: 4, 2: 2, 4: 8 if dtype == torch.float32 else 4}[SLICES]
        return tile | {"num_warps": num_warps, "num_stages": num_stages}
    if dtype == torch.float32:
        BLOCK_N, BLOCK_K, num_warps = 1, 1024, 4
    elif K <= 1024 or (weights == 2 and K <= 2048):
        BLOCK_N, BLOCK_K, num_warps = 4, 1024, 4
    elif weights == 1 and K <= 4096 and N < 16384:  # a row a program, all of it on its way before the wait
        BLOCK_N, BLOCK_K, num_warps = 1, 4096, 1 if K <= 2048 else 4
    elif weights == 1 and K > 4096 and K % 4096 == 0:
        BLOCK_N, BLOCK_K, num_warps = 4, 4096, 8
    else:
        BLOCK_N, BLOCK_K, num_warps = 2, 2048, 4
    if capability(device) != (9, 0):
        BLOCK_N = min(BLOCK_N, 2)  # sm_120 would spill
    BLOCK_K = min(BLOCK_K, triton.next_power_of_2(K))
    return {"SLICES": 1, "BLOCK_M": 1, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "num_warps": num_warps}


def fuses_qkv(M: int) -> bool:
    """Whether decode_qkv makes its products itself. The interpreter would load rows of several heads element by
    element."""
    return M <= DECODE_ROWS and not interpreted()


def decode_qkv(M: int, N: int, K: int, dtype: torch.dtype, device: torch.device) -> dict:
    """As :func:`decode_linear`'s, for N pairs of rows."""
    if fuses_qkv(M):
        return decode_linear(M, N, K, 2, dtype, device)
    return qkv_without_products(M, N)


def qkv_without_products(M: int, N: int) -> dict:
    """As :func:`decode_qkv`'s where they are made already: a few elements a thread."""
    BLOCK_M = triton.next_power_of_2(M)
    elements = INTERPRETED_ROWS if interpreted() else 2048
    BLOCK_N = min(triton.next_power_of_2(N), max(1, elements // BLOCK_M))
    return {"SLICES": 1, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": 1}


# More rows than these are worth a weight written out.
QUANTIZED_ROWS = 64


def quantized_linear(
    M: int, N: int, K: int, weights: int, weight: QuantizedWeight, dtype: torch.dtype
) -> tuple[int, dict]:
    """Programs to launch, and :func:`decode_linear`'s tile of weights in ``weight``'s form."""
    return _quantized_linear(M, N, K, weights, *weight.form, dtype, weight.device)


@functools.lru_cache(4096)
def _quantized_linear(M, N, K, weights, bits, group_size, minima, dtype, device) -> tuple[int, dict]:
    """Measured on an H100 in bfloat16, in groups of 128 or whole rows."""
    # With several rows a step is of one group: a power of two that divides it.
    tile = {
        "BLOCK_M": 1 if M == 1 else max(16, triton.next_power_of_2(M)),
        "BLOCK_K": min(group_size & -group_size, 128),
    }
    if interpreted():
        tile["BLOCK_N"] = min(triton.next_power_of_2(N), max(1, (1 << 20) // triton.next_power_of_2(K)))
        return triton.cdiv(N, tile["BLOCK_N"]), tile
    if M > 1:
        # wgmma takes 64 rows; where programs are few, smaller ones for more multiprocessors.
        wide = N * weights >= 16384 and capability(device) in ((9, 0), (10, 0))
        tile |= {"BLOCK_N": 64 if wide else 32, "num_warps": 4, "num_stages": 4}
        if dtype == torch.float32:  # products in registers
            tile |= {"BLOCK_N": 16, "BLOCK_K": min(tile["BLOCK_K"], 32), "num_warps": 8, "num_stages": 1}
        elif capability(device) not in ((8, 0), (9, 0), (10, 0)):
            tile["num_stages"] = 2
        return triton.cdiv(N, tile["BLOCK_N"]), tile
    # A thread has one chunk of each row, or several where there are more than so many warps of them.
    threads = triton.next_power_of_2(K * bits // 128)
    num_warps = min({4: 8, 8: 16}[bits], max(1, threads // 32))
    BLOCK_N = (2 if minima else 4) if weights == 2 else bits if threads <= 256 else bits // 2
    tile |= {"BLOCK_N": BLOCK_N, "num_warps": num_warps}
    blocks = triton.cdiv(N, tile["BLOCK_N"])
    # Programs that fit beside each other, and beside the next kernel's first; each has as many rows as any other.
    at_once = multiprocessors(device) * max(1, (32 if N >= 65536 else 16) // num_warps)
    return triton.cdiv(blocks, triton.cdiv(blocks, at_once)), tile


def dequantize(count: int, bits: int) -> dict:
    """Chunks of 16 bytes a program."""
    BLOCK_C = INTERPRETED_ROWS * bits // 128 if interpreted() else 256
    return {"BLOCK_C": min(BLOCK_C, triton.next_power_of_2(count))}


def _interpreted_decode(M: int, N: int, K: int) -> dict:
    # Here a product of matrices is cheaper than a sum, even with one row.
    BLOCK_K = min(2048, max(16, triton.next_power_of_2(K)))
    BLOCK_N = min(triton.next_power_of_2(N), (1 << 20) // BLOCK_K)
    return {"SLICES": 1, "BLOCK_M": max(2, triton.next_power_of_2(M)), "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K}


def next_token(V: int, hidden_size: int, num_stop_tokens: int) -> dict:
    """Into how many chunks the vocabulary is cut, and what is looked at together."""
    BLOCK_V = min(triton.next_power_of_2(V), INTERPRETED_ROWS if interpreted() else 2048)
    CHUNKS = triton.cdiv(V, BLOCK_V)
    tile = {
        "CHUNKS": CHUNKS,
        "BLOCK_V": BLOCK_V,
        "BLOCK_C": triton.next_power_of_2(CHUNKS),
        "BLOCK_S": triton.next_power_of_2(max(1, num_stop_tokens)),
        "BLOCK_H": min(triton.next_power_of_2(hidden_size), 4096),
    }
    return tile if interpreted() else tile | {"num_warps": 8}
