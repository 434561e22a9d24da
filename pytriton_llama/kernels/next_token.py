"""The end of a decode step: choose each sequence's next token, and make everything ready for the next step.

    token[b] = argmaxᵥ logits[b, v]                                              at temperature 0
    token[b] = argmaxᵥ (logits[b, v] / temperature[b] − log(−log u[b, v]))       else, with u uniform in [0, 1)

    logits: (batch, vocab_size)

The second is a draw from softmax(logits / temperature): the largest of values with Gumbel noise is one of them with
just its probability, so that nothing has to be summed or normalised. u comes from Philox, by seed, token and length:
a sequence draws the same tokens in any batch, on any device.

The vocabulary is cut into chunks, a program each; the program that finishes a sequence's last chunk takes the best of
all, and then does what is left of the step: the length grows, the token is handed out and its embedding looked up.

Gumbel, "Statistical theory of extreme values and some practical applications", 1954; Maddison, Tarlow and Minka,
"A* sampling", 2014 (arXiv:1411.0030).
"""

import torch
import triton
import triton.language as tl

from pytriton_llama.kernels import tiles
from pytriton_llama.kernels.arguments import check, counters, need, need_no_grad
from pytriton_llama.kernels.linear import wait_for_previous_kernel
from pytriton_llama.kernels.quantized_linear import check_weight
from pytriton_llama.kernels.quantized_weight import QuantizedWeight


@triton.jit
def embedding_row(
    embedding_ptr, scales_ptr, minima_ptr, row, offs, HIDDEN: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr
):
    """Elements of a row; packed (see quantized_weight) where there are scales."""
    mask = offs < HIDDEN
    if scales_ptr is None:
        return tl.load(embedding_ptr + row * HIDDEN + offs, mask=mask)
    else:
        FIELDS: tl.constexpr = 32 // BITS
        words = offs // (4 * FIELDS) * 4 + offs % 4
        words = tl.load(embedding_ptr + row * (HIDDEN // FIELDS) + words, mask=mask, other=0)
        q = (words >> (offs // 4 % FIELDS * BITS)) & ((1 << BITS) - 1)
        groups = row * (HIDDEN // GROUP) + offs // GROUP
        scales = tl.load(scales_ptr + groups, mask=mask, other=0.0).to(tl.float32)
        if minima_ptr is not None:
            return q.to(tl.float32) * scales + tl.load(minima_ptr + groups, mask=mask, other=0.0).to(tl.float32)
        else:
            return (q - (1 << BITS) // 2).to(tl.float32) * scales


@triton.jit
def next_token_kernel(
    logits_ptr,
    best_ptr,
    index_ptr,
    counter_ptr,
    temperature_ptr,
    seeds_ptr,
    lengths_ptr,
    limits_ptr,
    running_ptr,
    stop_tokens_ptr,
    tokens_ptr,
    steps_ptr,
    embedding_ptr,
    scales_ptr,
    minima_ptr,
    x_ptr,
    V,
    num_stop_tokens,
    num_slots,
    HIDDEN: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    PDL: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    # Sequences along the first axis of the grid: the second ends at 65535.
    b = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    wait_for_previous_kernel(PDL)
    length = tl.load(lengths_ptr + b)
    temperature = tl.load(temperature_ptr + b)
    offs_v = chunk * BLOCK_V + tl.arange(0, BLOCK_V)
    scores = tl.load(logits_ptr + b * V + offs_v, mask=offs_v < V, other=float("-inf")).to(tl.float32)
    if temperature > 0:
        zeros = offs_v * 0
        bits, _, _, _ = tl.philox(tl.load(seeds_ptr + b), offs_v, zeros + length, zeros, zeros)
        scores = scores / temperature - tl.log(-tl.log(tl.uint_to_uniform_float(bits)))
    # A NaN is the largest, as torch.argmax has it: compared as it is, it would lose to what lies past the vocabulary.
    scores = tl.where(scores == scores, scores, float("inf"))
    # There −inf over a temperature of inf is one, too.
    scores = tl.where(offs_v < V, scores, float("-inf"))
    best, index = tl.max(scores, axis=0, return_indices=True)
    tl.store(best_ptr + b * CHUNKS + chunk, best)
    tl.store(index_ptr + b * CHUNKS + chunk, chunk * BLOCK_V + index)
    # This program's stores come before its count.
    tl.debug_barrier()
    done = tl.atomic_add(counter_ptr + b, 1, sem="acq_rel")
    if done == CHUNKS - 1:
        tl.store(counter_ptr + b, 0)  # for the next launch
        offs_c = tl.arange(0, BLOCK_C)
        # Ordered after the others' stores by the count; ".cg", a hint: nothing is read twice here.
        bests = tl.load(best_ptr + b * CHUNKS + offs_c, mask=offs_c < CHUNKS, other=float("-inf"), cache_modifier=".cg")
        winner = tl.argmax(bests, axis=0)
        token = tl.load(index_ptr + b * CHUNKS + winner, cache_modifier=".cg")

        running = tl.load(running_ptr + b)
        step = tl.load(steps_ptr + b)
        tl.store(tokens_ptr + (step % num_slots) * tl.num_programs(0) + b, tl.where(running != 0, token, -1))
        tl.store(steps_ptr + b, step + 1)
        offs_s = tl.arange(0, BLOCK_S)
        stop_tokens = tl.load(stop_tokens_ptr + offs_s, mask=offs_s < num_stop_tokens, other=-1)
        stops = tl.sum((stop_tokens == token).to(tl.int32), axis=0) > 0
        # A sequence that ends keeps its length: what further steps do for it is done again and again in one place.
        goes_on = (running != 0) & (length < tl.load(limits_ptr + b)) & (stops == 0)
        tl.store(running_ptr + b, goes_on.to(tl.int32))
        tl.store(lengths_ptr + b, length + goes_on.to(tl.int32))
        for start in tl.static_range(0, HIDDEN, BLOCK_H):
            offs_h = start + tl.arange(0, BLOCK_H)
            row = embedding_row(embedding_ptr, scales_ptr, minima_ptr, token.to(tl.int64), offs_h, HIDDEN, BITS, GROUP)
            tl.store(x_ptr + b * HIDDEN + offs_h, row.to(x_ptr.dtype.element_ty), mask=offs_h < HIDDEN)


def next_token(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    lengths: torch.Tensor,
    limits: torch.Tensor,
    running: torch.Tensor,
    stop_tokens: torch.Tensor,
    tokens: torch.Tensor,
    steps: torch.Tensor,
    embedding: torch.Tensor | QuantizedWeight,
    x: torch.Tensor,
) -> None:
    """Choose the next token of every sequence that is still running, and update what the next step needs, in place.

    Args:
        logits: (batch, vocab_size), contiguous; −inf where a token must not be chosen.
        temperature: float32 (batch,); 0 takes the likeliest token, the first of equals.
        seeds: int64 (batch,).
        lengths: int32 (batch,), tokens so far; one more for a sequence that goes on.
        limits: int32 (batch,): a sequence of this length goes on no more.
        running: int32 (batch,): 1 until a sequence has reached its limit or chosen one of ``stop_tokens``; then 0.
        stop_tokens: int32 (any number,).
        tokens: int32 (slots, batch): row ``steps % slots`` gets what was chosen, −1 for a sequence that had ended
            before. May be pinned host memory.
        steps: int32 (batch,): calls so far; one more afterwards.
        embedding: (vocab_size, hidden_size), contiguous, or in 8 or 4 bits.
        x: (batch, hidden_size): gets the embeddings of what was chosen.

    Raises:
        TypeError, ValueError: shapes or dtypes other than these, and
            :func:`~pytriton_llama.kernels.arguments.check`.
    """
    op = "next_token"
    check(op, logits=logits, x=x)
    need(logits.dim() == 2, f"{op}: logits are {tuple(logits.shape)}; needed: (batch, vocab_size)")
    need(x.dim() == 2, f"{op}: x is {tuple(x.shape)}; needed: (batch, hidden_size)")
    batch, V = logits.shape
    hidden_size = x.shape[1]
    need(
        embedding.shape == (V, hidden_size) and x.shape == (batch, hidden_size),
        f"{op}: embedding is {tuple(embedding.shape)}, x {tuple(x.shape)}; needed: ({V}, hidden_size) and ({batch}, "
        "hidden_size)",
    )
    need(V > 0, f"{op}: the vocabulary is empty")
    of_sequences = {"temperature": temperature, "seeds": seeds, "lengths": lengths, "limits": limits}
    of_sequences |= {"running": running, "steps": steps}
    for name, t in (of_sequences | {"stop_tokens": stop_tokens, "tokens": tokens}).items():
        dtype = {"temperature": torch.float32, "seeds": torch.int64}.get(name, torch.int32)
        if t.dtype is not dtype:
            raise TypeError(f"{op}: {name} is {t.dtype}; needed: {dtype}")
        at_hand = t.device == x.device or (name == "tokens" and t.is_cpu)  # pinned; else Triton says so
        need(at_hand, f"{op}: {name} is on {t.device} but x is on {x.device}")
        need(name not in of_sequences or t.shape == (batch,), f"{op}: {name} is {tuple(t.shape)}; needed: ({batch},)")
        need(t.is_contiguous(), f"{op}: {name} must be contiguous")
        need_no_grad(op, name, t)
    need(stop_tokens.dim() == 1, f"{op}: stop_tokens are {tuple(stop_tokens.shape)}; needed: one dimension")
    need(
        tokens.dim() == 2 and tokens.shape[1] == batch and tokens.shape[0] > 0,
        f"{op}: tokens are {tuple(tokens.shape)}; needed: (slots, {batch})",
    )
    need(logits.is_contiguous() and x.is_contiguous(), f"{op}: logits and x must be contiguous")
    if isinstance(embedding, QuantizedWeight):
        check_weight(op, embedding, x)
        source: tuple = embedding.tensors
        form = embedding.bits, embedding.group_size
    else:
        check(op, x=x, embedding=embedding)
        need(embedding.is_contiguous(), f"{op}: embedding must be contiguous")
        source, form = (embedding, None, None), (0, 0)
    if not batch:
        return
    tile = tiles.next_token(V, hidden_size, stop_tokens.numel())
    best = torch.empty((batch, tile["CHUNKS"]), dtype=torch.float32, device=x.device)
    index = torch.empty((batch, tile["CHUNKS"]), dtype=torch.int32, device=x.device)
    next_token_kernel[(batch, tile["CHUNKS"])](
        logits, best, index, counters(batch, x.device), temperature, seeds, lengths, limits, running, stop_tokens,
        tokens, steps, *source, x, V, stop_tokens.numel(), tokens.shape[0], hidden_size, *form,
        **tiles.dependent(x.device), **tile,
    )  # fmt: skip
