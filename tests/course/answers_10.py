"""Right and wrong answers to notebook 10's exercises."""

import functools

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels.quantized_weight import pack


def bytes_of_token(config, bits, group_size=None, minima=False, head=8, scale=2, head_scale=2, row=None):
    """``row``: how many numbers a row is taken to have where it is the group."""
    hidden, wide = config.hidden_size, config.intermediate_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layer = 0
    for N, K in ((q + 2 * kv, hidden), (hidden, q), (2 * wide, hidden), (hidden, wide)):
        layer += N * K * bits // 8 + scale * (1 + minima) * N * K // (group_size or row or K)
    return config.num_hidden_layers * layer + config.vocab_size * (hidden * head // 8 + head_scale)


def from_q4_0(blocks, at=0, flip=False, order="halves", dtype=torch.int32):
    two, numbers = (blocks[..., :2], blocks[..., 2:]) if at == 0 else (blocks[..., 16:], blocks[..., :16])
    two = two.flip(-1) if flip else two
    low, high = numbers & 15, numbers >> 4
    parts = {"halves": torch.cat((low, high), -1), "swapped": torch.cat((high, low), -1)}
    q = parts[order] if order in parts else torch.stack((low, high), -1).flatten(-2)
    return pack(q.flatten(1), 4).to(dtype), two.contiguous().view(torch.float16)[..., 0]


@triton.jit
def two_bits_kernel(
    y_ptr, x_ptr, packed_ptr, scales_ptr, N, K, GROUP, FAULT: tl.constexpr, BLOCK_N: tl.constexpr, CHUNKS: tl.constexpr
):
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = (offs_n < N) | (FAULT == "rows")
    acc = tl.zeros((CHUNKS, BLOCK_N), tl.float32)
    for c in range(0, K // 64, CHUNKS):
        offs_c = c + tl.arange(0, CHUNKS)
        mask = ((offs_c < K // 64) | (FAULT == "columns"))[:, None] & mask_n[None, :]
        words = tl.load(
            packed_ptr + (offs_n[None, :] * (K // 64) + offs_c[:, None])[:, :, None] * 4 + tl.arange(0, 4),
            mask=mask[:, :, None],
            other=0,
        )
        group = offs_c * 64 // GROUP
        if FAULT == "first group":
            group = offs_c * 0
        if FAULT == "chunk":
            # Kept inside of the row: of several chunks in a group, it is the wrong scale, not one outside.
            group = offs_c % (K // GROUP)
        scales = tl.load(scales_ptr + offs_n[None, :] * (K // GROUP) + group[:, None], mask=mask, other=0.0)
        total = tl.zeros((CHUNKS, BLOCK_N, 4), tl.float32)
        for j in tl.static_range(16):
            at = 4 * j + tl.arange(0, 4)
            if FAULT == "order":
                at = 16 * tl.arange(0, 4) + j
            offs_k = offs_c[:, None] * 64 + at[None, :]
            x = tl.load(x_ptr + offs_k, mask=offs_k < K, other=0.0)
            q = words >> (2 * j)
            if FAULT != "sign" or j < 15:
                q &= 3
            if FAULT != "zero":
                q -= 2
            total += q.to(tl.float32) * x[:, None, :]
        acc += scales.to(tl.float32) * tl.sum(total, axis=2)
    tl.store(y_ptr + offs_n, tl.sum(acc, axis=0).to(y_ptr.dtype.element_ty), mask=mask_n)


def two_bits(x, packed, scales, group_size, FAULT="", dtype=torch.float32):
    (N, words), y = packed.shape, torch.empty(len(packed), dtype=dtype, device=x.device)
    two_bits_kernel[(triton.cdiv(N, 8),)](y, x, packed, scales, N, 16 * words, group_size, FAULT, 8, 4)
    return y


@triton.jit
def numbers_kernel(y_ptr, x_ptr, q_ptr, scales_ptr, K, GROUP, BLOCK_K: tl.constexpr):
    row, offs_k = tl.program_id(0), tl.arange(0, BLOCK_K)
    mask = offs_k < K
    q = tl.load(q_ptr + row * K + offs_k, mask=mask, other=0).to(tl.float32)
    scales = tl.load(scales_ptr + row * (K // GROUP) + offs_k // GROUP, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + row, tl.sum(q * scales * tl.load(x_ptr + offs_k, mask=mask, other=0.0)))


def unpacked_by_torch(x, packed, scales, group_size):
    fields = 2 * torch.arange(16, dtype=torch.int32, device=x.device)[:, None]
    q = (((packed.unflatten(1, (-1, 1, 4)) >> fields) & 3) - 2).to(torch.int8).flatten(1)
    y = x.new_empty(len(q))
    numbers_kernel[(len(q),)](y, x, q, scales, len(x), group_size, triton.next_power_of_2(len(x)))
    return y


ANSWERS = {
    "10.a": (
        bytes_of_token,
        {
            functools.partial(bytes_of_token, head=4): "the logits' weight stays in 8 bits",
            functools.partial(bytes_of_token, head_scale=0): "a row of the logits' weight has a scale, too",
            functools.partial(bytes_of_token, head=16): "vocab_size × hidden_size bytes",
            functools.partial(bytes_of_token, scale=0): "scales are read as well",
            functools.partial(bytes_of_token, scale=4): "a scale is a float16",
            lambda config, bits, group_size, minima=False: bytes_of_token(config, bits, group_size): "a minimum is",
            functools.partial(bytes_of_token, row=128): "rows have hidden_size numbers in some matrices only",
        },
    ),
    "10.b": (
        from_q4_0,
        {
            functools.partial(from_q4_0, dtype=torch.int64): "packed is int32",
            functools.partial(from_q4_0, flip=True): "the scale's low byte comes first",
            functools.partial(from_q4_0, at=16): "the first two bytes are the scale",
            functools.partial(from_q4_0, order="pairs"): "byte i has weights i and i + 16",
            functools.partial(from_q4_0, order="swapped"): "weight i is in the low four bits",
        },
    ),
    "10.c": (
        two_bits,
        {
            functools.partial(two_bits, dtype=torch.float16): "y is (N,), float32",
            functools.partial(two_bits, FAULT="zero"): "a weight is scale · (q − 2)",
            functools.partial(two_bits, FAULT="order"): "field j of word i is weight 4j + i",
            functools.partial(two_bits, FAULT="sign"): "the last field's high bit is the word's sign",
            functools.partial(two_bits, FAULT="first group"): "four chunks, each a group",
            functools.partial(two_bits, FAULT="chunk"): "four chunks share a scale",
            functools.partial(two_bits, FAULT="columns"): "an access outside of a tensor",
            unpacked_by_torch: "not weights that torch unpacked",
        },
    ),
}
