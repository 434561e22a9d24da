"""What every kernel must compute, in plain torch: the oracle, slow and obvious.

Same names and arguments as :mod:`pytriton_llama.kernels`. Each function computes in its input's dtype or in float32,
whichever is wider, and rounds once at the end: give it float64 for an oracle, or a model's own dtype for a second
implementation (``kernels="torch"``).
"""

import torch
from torch.nn import functional as F


def _wide(*tensors: torch.Tensor | None):
    """The tensors in at least float32; None stays."""
    return [None if t is None else t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def softmax(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    return torch.softmax(_wide(x)[0], dim).to(x.dtype)


def activate(x: torch.Tensor, activation: str | None) -> torch.Tensor:
    if activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    return F.silu(x) if activation == "silu" else x


def linear(x, weight, bias=None, activation=None, residual=None) -> torch.Tensor:
    wide_x, wide_weight, wide_bias, wide_residual = _wide(x, weight, bias, residual)
    y = activate(F.linear(wide_x, wide_weight, wide_bias), activation)
    return (y if residual is None else y + wide_residual).to(x.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    (wide,) = _wide(x)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)  # Llama's order: rounded, then weighted


def add_rms_norm(x, residual, weight, eps: float = 1e-6) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return rms_norm(total, weight, eps), total


def layer_norm(x, weight, bias, eps: float = 1e-5) -> torch.Tensor:
    wide_x, wide_weight, wide_bias = _wide(x, weight, bias)
    return F.layer_norm(wide_x, x.shape[-1:], wide_weight, wide_bias, eps).to(x.dtype)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    wide_gate, wide_up = _wide(gate, up)
    return (F.silu(wide_gate) * wide_up).to(gate.dtype)


def swiglu(x, gate_weight, up_weight) -> torch.Tensor:
    wide_x, wide_gate, wide_up = _wide(x, gate_weight, up_weight)
    return (F.silu(F.linear(wide_x, wide_gate)) * F.linear(wide_x, wide_up)).to(x.dtype)


def fused_ffn(
    x, weight, bias=None, residual=None, activation="gelu_tanh", dropout_p: float = 0.0, seed: int = 0
) -> torch.Tensor:
    wide_x, wide_weight, wide_bias, wide_residual = _wide(x, weight, bias, residual)
    y = activate(F.linear(wide_x, wide_weight.t(), wide_bias), activation)
    if dropout_p > 0:
        kept = philox_uniform(seed, y.numel()).to(y.device).view(y.shape) >= dropout_p
        y = torch.where(kept, y / (1 - dropout_p), 0.0)
    return (y if residual is None else y + wide_residual).to(x.dtype)


def philox_uniform(seed: int, n: int, second: int = 0) -> torch.Tensor:
    """float32 uniform in [0, 1) for the counters (0 … n − 1, second): Philox4x32-10 (Salmon et al., 2011), as
    ``tl.rand``."""
    word = 0xFFFFFFFF
    c0, c1, c2, c3 = torch.arange(n), torch.full((n,), second), *(torch.zeros(n, dtype=torch.int64) for _ in range(2))
    key0, key1 = seed & word, (seed >> 32) & word

    def multiply(constant: int, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """High and low word of a 32 × 32-bit product, by 16-bit halves: int64 cannot hold it unsigned."""
        low, high = constant * (c & 0xFFFF), constant * (c >> 16)
        high = high + (low >> 16)
        return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)

    for _ in range(10):
        high_a, low_a = multiply(0xD2511F53, c0)
        high_b, low_b = multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high_b ^ c1 ^ key0, low_b, high_a ^ c3 ^ key1, low_a
        key0, key1 = (key0 + 0x9E3779B9) & word, (key1 + 0xBB67AE85) & word
    # The word as a signed number, folded to be non-negative, then scaled by just under 2⁻³¹.
    signed = torch.where(c0 >= 2**31, c0 - 2**32, c0)
    return torch.where(signed < 0, -signed - 1, signed).to(torch.float32) * 4.6566127342e-10


def rotary_embedding(q, k, cos, sin) -> tuple[torch.Tensor, torch.Tensor]:
    if cos.dim() == 3:
        cos, sin = cos[:, None], sin[:, None]  # the same for every head

    def turn(x: torch.Tensor) -> torch.Tensor:
        (wide,) = _wide(x)
        low, high = wide.chunk(2, dim=-1)
        return (wide * cos + torch.cat((-high, low), dim=-1) * sin).to(x.dtype)

    return turn(q), turn(k)


def flash_attention(q, k, v, causal=False, scale=None, window=None, return_lse=False):
    group = q.shape[1] // k.shape[1]
    wide_q, wide_k, wide_v = _wide(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
    scores = wide_q @ wide_k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    length_q, length_k = scores.shape[-2:]
    if causal:
        # The last query stands at the last key.
        distance = torch.arange(length_q)[:, None] + length_k - length_q - torch.arange(length_k)[None, :]
        hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
        scores = scores.masked_fill(hidden.to(scores.device), float("-inf"))
    # A query that sees no key attends to nothing: 0, where softmax alone would say NaN.
    empty = (scores == float("-inf")).all(-1, keepdim=True)
    o = (torch.softmax(scores, -1).masked_fill(empty, 0.0) @ wide_v).to(q.dtype)
    return (o, torch.logsumexp(scores, -1).float()) if return_lse else o


def flash_attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, causal=False, scale=None, window=None) -> torch.Tensor:
    o = torch.zeros_like(q)
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for i in range(len(starts_q) - 1):
        queries, keys = slice(starts_q[i], starts_q[i + 1]), slice(starts_k[i], starts_k[i + 1])
        one_q, one_k, one_v = (t.transpose(0, 1)[None] for t in (q[queries], k[keys], v[keys]))
        o[queries] = flash_attention(one_q, one_k, one_v, causal, scale, window)[0].transpose(0, 1)
    return o


def flash_decoding(q, k_cache, v_cache, lengths, scale=None, window=None, after_qkv=False) -> torch.Tensor:
    o = torch.zeros_like(q)
    # Of one query, a group's heads may as well be queries of one head: long caches need not be repeated for them.
    grouped = q.unflatten(1, (k_cache.shape[1], -1))
    for b, length in enumerate(lengths.tolist()):
        first = 0 if window is None else max(0, length - window)
        keys, values = k_cache[b : b + 1, :, first:length], v_cache[b : b + 1, :, first:length]
        o[b] = flash_attention(grouped[b : b + 1], keys, values, scale=scale)[0].flatten(0, 1)
    return o


def decode_linear(x, weight, bias=None, norm_weight=None, eps=1e-6, residual=None, up_weight=None) -> torch.Tensor:
    n = x if norm_weight is None else rms_norm(x, norm_weight, eps)
    if up_weight is None:
        return linear(n, weight, bias, residual=residual)
    y = swiglu(n, weight, up_weight)
    return y if residual is None else y + residual


def decode_qkv(x, weight, bias, norm_weight, eps, cos, sin, lengths, k_cache, v_cache) -> torch.Tensor:
    kv_heads, head_dim = k_cache.shape[1], k_cache.shape[3]
    heads = weight.shape[0] // head_dim - 2 * kv_heads
    qkv = linear(rms_norm(x, norm_weight, eps), weight, bias).unflatten(-1, (-1, 1, head_dim))
    q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
    sequences = torch.arange(len(x), device=x.device)[lengths > 0]
    positions = (lengths.long() - 1).clamp(min=0)
    q, k = rotary_embedding(q, k, cos[positions][:, None], sin[positions][:, None])
    k_cache[sequences, :, positions[sequences]] = k[sequences, :, 0]
    v_cache[sequences, :, positions[sequences]] = v[sequences, :, 0]
    return q[:, :, 0]


def quantized_linear(x, weight, bias=None, norm_weight=None, eps=1e-6, residual=None, up_weight=None) -> torch.Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    up = None if up_weight is None else up_weight.dequantize(dtype)
    return decode_linear(x, weight.dequantize(dtype), bias, norm_weight, eps, residual, up)


def quantized_qkv(x, weight, *others) -> torch.Tensor:
    return decode_qkv(x, weight.dequantize(torch.promote_types(x.dtype, torch.float32)), *others)


def dequantize(weight, dtype) -> torch.Tensor:
    return weight.dequantize(dtype)


def next_token(logits, temperature, seeds, lengths, limits, running, stop_tokens, tokens, steps, embedding, x) -> None:
    scores = logits.float()
    for b in (temperature > 0).nonzero().flatten().tolist():
        noise = philox_uniform(int(seeds[b]), logits.shape[1], int(lengths[b])).to(scores.device)
        scores[b] = scores[b] / temperature[b] - torch.log(-torch.log(noise))
    chosen = scores.argmax(-1)
    row = int(steps[0]) % len(tokens)
    tokens[row] = torch.where(running > 0, chosen, -1).to(tokens)
    steps += 1
    running *= (lengths < limits) & ~torch.isin(chosen, stop_tokens)
    lengths += running
    rows = embedding[chosen]
    x.copy_(rows if isinstance(rows, torch.Tensor) else rows.dequantize(x.dtype))
