"""Tile sizes, the one place where they are chosen.

The same kernel source runs compiled and interpreted; only the tiles differ. On a GPU a tile must fit into registers
and shared memory: every tile here stays below the 64 KB of the smallest supported card (T4). In the interpreter each
Triton operation costs ten microseconds of Python or more, whatever its size, so a few large tiles win.

Each function returns the keyword arguments of a launch.
"""

import torch
import triton

from pytriton_llama.runtime import interpreted

# Elements of an interpreted program's tile of rows, and of a weight's (Triton allows 2²⁰).
INTERPRETED_ROWS = 1 << 16
INTERPRETED_WEIGHT = 1 << 19
# The longest row that a program keeps in registers as one block, and the blocks in which it walks along longer ones.
MAX_ROW_BLOCK = 32768
LONG_ROW_BLOCK = 16384
# An element-wise program's share of a row.
ELEMENTWISE_BLOCK = 2048


def rows(M: int, N: int) -> dict:
    """Whole rows of N columns, or blocks of longer ones, for softmax and the norms."""
    return _rows(M, triton.next_power_of_2(N) if N <= MAX_ROW_BLOCK else LONG_ROW_BLOCK)


def elementwise(M: int, N: int) -> dict:
    """Pieces of rows of N columns, for what needs no sum over a row."""
    return _rows(M, min(triton.next_power_of_2(N), ELEMENTWISE_BLOCK))


def _rows(M: int, BLOCK_N: int) -> dict:
    if interpreted():
        return {"BLOCK_M": min(triton.next_power_of_2(M), max(1, INTERPRETED_ROWS // BLOCK_N)), "BLOCK_N": BLOCK_N}
    # Short rows share a program, so that it has a thousand elements at least to hide latency with.
    BLOCK_M = max(1, 1024 // max(BLOCK_N, 16))
    # 16 elements a thread: two loads of 16 bytes in 16 bits. At 16384 columns 32 warps cost layer_norm a third of its
    # speed (an H200: 2481 GB/s against 3904 with 16); rows of 32768 are spread over 32.
    num_warps = 32 if BLOCK_N > 16384 else min(16, max(2, BLOCK_M * BLOCK_N // 512))
    return {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "num_warps": num_warps}


def linear(M: int, N: int, K: int, dtype: torch.dtype, dropout: bool = False) -> dict:
    """A (BLOCK_M, BLOCK_N) tile of y, K walked in steps of BLOCK_K; random numbers need registers of their own."""
    if interpreted():
        return _interpreted_linear(M, N, K)
    if dtype == torch.float32:
        tile = {
            "BLOCK_M": 64 if M > 16 else 16,
            "BLOCK_N": 64,
            "BLOCK_K": 32,
            "num_warps": 4,
            "num_stages": 3,
        }
    elif M <= 16:
        tile = {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128, "num_warps": 4, "num_stages": 3}
    elif M <= 64 or dropout:
        tile = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}
    else:
        tile = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3}
    return tile | {"GROUP_M": 8}


def swiglu(M: int, N: int, K: int, dtype: torch.dtype) -> dict:
    """As :func:`linear`, with two weights' tiles in shared memory."""
    if interpreted():
        return _interpreted_linear(M, N, K)
    if dtype == torch.float32:
        tile = {
            "BLOCK_M": 64 if M > 16 else 16,
            "BLOCK_N": 32,
            "BLOCK_K": 32,
            "num_warps": 4,
            "num_stages": 3,
        }
    elif M <= 64:
        tile = {
            "BLOCK_M": 16 if M <= 16 else 64,
            "BLOCK_N": 64,
            "BLOCK_K": 64,
            "num_warps": 4,
            "num_stages": 2,
        }
    else:
        tile = {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3}
    return tile | {"GROUP_M": 8}


def _interpreted_linear(M: int, N: int, K: int) -> dict:
    BLOCK_M = min(128, triton.next_power_of_2(M))
    BLOCK_K = max(16, min(512, triton.next_power_of_2(K)))
    # A step that divides K needs no mask along K; a small one would not be worth that.
    if K and (divisor := K & -K) >= 256:
        BLOCK_K = min(512, divisor)
    BLOCK_N = min(triton.next_power_of_2(N), INTERPRETED_WEIGHT // BLOCK_K)
    return {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K, "GROUP_M": 8}


def rotary_embedding(length: int, num_heads: int, head_dim: int) -> dict:
    """Positions a program: all heads of one on a GPU, as many as make a tile in the interpreter."""
    heads, half = triton.next_power_of_2(num_heads), triton.next_power_of_2(head_dim // 2)
    if interpreted():
        return {"BLOCK_L": min(triton.next_power_of_2(length), max(1, INTERPRETED_ROWS // (heads * half)))}
    return {"BLOCK_L": 1, "num_warps": 4}


def flash_attention(length_q: int, length_k: int, head_dim: int, dtype: torch.dtype) -> dict:
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
    if dtype == torch.float32:
        M, N, warps, stages = {
            16: (64, 32, 4, 2),
            32: (64, 32, 4, 2),
            64: (64, 32, 8, 2),
            128: (32, 16, 8, 1),
            256: (16, 16, 8, 1),
        }[BLOCK_D]
    else:
        M, N, warps, stages = {
            16: (128, 64, 4, 2),
            32: (128, 64, 4, 2),
            64: (128, 64, 4, 2),
            128: (64, 32, 4, 2),
            256: (32, 32, 4, 1),
        }[BLOCK_D]
    return {"BLOCK_M": M, "BLOCK_N": N, "BLOCK_D": BLOCK_D, "num_warps": warps, "num_stages": stages}


def flash_decoding(programs: int, group: int, max_length: int, head_dim: int, device: torch.device) -> dict:
    """Keys a step, and how many programs share a sequence: enough to fill the GPU when the batch is small.

    ``programs`` is batch × key/value heads, ``group`` the query heads of each. The number of splits depends on the
    cache's capacity, not on the lengths, so that one launch serves a growing sequence. BLOCK_ROWS is the merge's.
    """
    BLOCK_D = max(16, triton.next_power_of_2(head_dim))
    BLOCK_G = triton.next_power_of_2(group)
    if interpreted():
        BLOCK_N = min(512, max(16, triton.next_power_of_2(max_length)))
        BLOCK_ROWS = min(256, triton.next_power_of_2(programs * group))
        return {"BLOCK_N": BLOCK_N, "BLOCK_D": BLOCK_D, "BLOCK_G": BLOCK_G, "SPLITS": 1, "BLOCK_ROWS": BLOCK_ROWS}
    BLOCK_N = 64 if BLOCK_D <= 64 else 32 if BLOCK_D == 128 else 16
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    useful = max(1, triton.cdiv(max_length, 4 * BLOCK_N))
    SPLITS = min(64, triton.next_power_of_2(min(useful, triton.cdiv(2 * processors, programs))))
    return {
        "BLOCK_N": BLOCK_N,
        "BLOCK_D": BLOCK_D,
        "BLOCK_G": max(16, BLOCK_G),  # the fewest rows that a tensor core takes
        "SPLITS": SPLITS,
        "BLOCK_ROWS": 1,
        "num_warps": 4 if BLOCK_D <= 128 else 8,
        "num_stages": 1,
    }
