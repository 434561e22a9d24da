"""How large the numbers are that an operation adds up and rounds on its way: what its errors are shares of.

Each function takes an operation's arguments in float64 and gives a pair for each result: the size of float32 sums, and
that of numbers that are rounded to the inputs' dtype before the result is.
"""

import torch

from pytriton_llama import reference

STEEPEST = 1.2  # no activation's slope is larger
# float16 rounds a smaller number by as much as this one; the other dtypes' are far below it.
LEAST = torch.finfo(torch.float16).smallest_normal
Pair = tuple[torch.Tensor, torch.Tensor]


def spread(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """How far products of x and weightᵀ wander while they are added up: the root of the sum of their squares."""
    return (x.square() @ weight.square().mT).sqrt()


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The size of the partial sums of x·weightᵀ."""
    return (x @ weight.mT).abs() + 2 * spread(x, weight)


def or_zero(t: torch.Tensor | None):
    return 0.0 if t is None else t.abs()


def rounded_once(size: torch.Tensor) -> list[Pair]:
    return [(size, torch.zeros_like(size))]


def softmax(x, dim=-1) -> list[Pair]:
    if not x.numel():
        return rounded_once(x)
    y = torch.softmax(x, dim)
    # An error of the exponent is a share of the result: as large as the exponent, which is −∞ where y is 0.
    return rounded_once(y * (1 + (x - x.amax(dim, keepdim=True)).abs().nan_to_num(0.0, posinf=0.0)))


def rms_norm(x, weight) -> list[Pair]:
    y = reference.rms_norm(x, weight).abs()
    return [(y, y + LEAST * weight.abs())]


def add_rms_norm(x, residual, weight) -> list[Pair]:
    y = reference.rms_norm(x + residual, weight).abs()
    return [(y, 3 * y + LEAST * weight.abs()), *rounded_once((x + residual).abs())]


def layer_norm(x, weight, bias) -> list[Pair]:
    # The mean, wrong by a share of the row's size, is taken off before the result is scaled.
    rstd = ((x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return rounded_once((x.abs() + x.square().mean(-1, keepdim=True).sqrt()) * rstd * weight.abs() + bias.abs())


def silu_mul(gate, up) -> list[Pair]:
    return rounded_once(reference.silu_mul(gate, up).abs() * (4 + gate.abs()))


def linear(x, weight, bias, activation, residual) -> list[Pair]:
    before = product(x, weight) + or_zero(bias)
    # silu and gelu are products with a sigmoid, whose error is a share of its exponent.
    return rounded_once(STEEPEST * before + or_zero(residual))


def fused_ffn(x, weight, bias, residual, activation, dropout_p, seed) -> list[Pair]:
    ((size, rounded),) = linear(x, weight.t(), bias, activation, None)
    # What is dropped is 0, however large it was.
    return [((size / (1 - dropout_p)).nan_to_num(0.0, posinf=0.0) + or_zero(residual), rounded)]


def gated(gate: torch.Tensor, up: torch.Tensor, of_gate: torch.Tensor, of_up: torch.Tensor) -> torch.Tensor:
    """The size of silu(gate) · up, from those of its factors."""
    return STEEPEST * of_gate * up.abs() + torch.nn.functional.silu(gate).abs() * of_up


def swiglu(x, gate_weight, up_weight) -> list[Pair]:
    of_gate, of_up = product(x, gate_weight), product(x, up_weight)
    return rounded_once(gated(x @ gate_weight.mT, x @ up_weight.mT, of_gate, of_up))


def plain(weight) -> torch.Tensor:
    return weight if isinstance(weight, torch.Tensor) else weight.dequantize(torch.float64)


def step(x, weight, bias, norm_weight, eps, residual, up_weight) -> list[Pair]:
    """Of ``decode_linear`` and ``quantized_linear``: the norm, or its weight's product, is rounded before the sum."""
    n, weight = x if norm_weight is None else reference.rms_norm(x, norm_weight, eps), plain(weight)
    size, rounded = product(n, weight) + or_zero(bias), 4 * spread(n, weight)
    if up_weight is not None:
        up_weight = plain(up_weight)
        factors = n @ weight.mT, n @ up_weight.mT
        size = gated(*factors, size, product(n, up_weight))
        rounded = gated(*factors, rounded, 4 * spread(n, up_weight))
    return [(size + or_zero(residual), rounded)]


def turned(low: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Both of a pair's numbers go into either result."""
    return low * cos.abs() + low.roll(low.shape[-1] // 2, -1) * sin.abs()


def rotary_embedding(q, k, cos, sin) -> list[Pair]:
    of_heads = (cos, sin) if cos.dim() == 2 else (cos[:, None], sin[:, None])
    return [pair for t in (q, k) for pair in rounded_once(turned(t.abs(), *of_heads))]


def qkv(x, weight, bias, norm_weight, eps, cos, sin, lengths, k_cache, v_cache) -> list[Pair]:
    head_dim, kv_heads, weight = k_cache.shape[3], k_cache.shape[1], plain(weight)
    n = reference.rms_norm(x, norm_weight, eps)
    size = (product(n, weight) + bias.abs()).unflatten(-1, (-1, head_dim))
    rounded = (4 * spread(n, weight) + (n @ weight.mT + bias).abs()).unflatten(-1, (-1, head_dim))
    newest = (lengths - 1).long()
    angles = cos[newest][:, None], sin[newest][:, None]
    heads = size.shape[1] - 2 * kv_heads
    q, k, v = zip(*(t.split((heads, kv_heads, kv_heads), 1) for t in (size, rounded)), strict=True)
    q, k = (tuple(turned(t, *angles) for t in pair) for pair in (q, k))
    # The newest token's numbers are the only ones in a cache; the others are NaN.
    return [q, *(tuple(t[:, :, None] for t in pair) for pair in (k, v))]


def attention(q, k, v, causal=False, scale=None, window=None, return_lse=False) -> list[Pair]:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    # A score's error is a share of the products that it is the sum of, and a probability's is that error.
    scores = (q.abs() @ k.abs().mT).nan_to_num(0.0, posinf=0.0) * q.shape[-1] ** -0.5
    worst = scores.amax(-1, keepdim=True) if k.shape[2] else scores.new_zeros((*scores.shape[:-1], 1))
    values = (
        v.abs().nan_to_num(0.0, posinf=0.0).amax(2, keepdim=True)
        if k.shape[2]
        else v.new_zeros((*v.shape[:2], 1, v.shape[3]))
    )
    size, lse = (1 + 2 * worst) * values, (4 + worst)[..., 0]
    pairs = [(size, values.expand_as(size))]
    return [*pairs, *rounded_once(lse)] if return_lse else pairs


def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, causal) -> list[Pair]:
    one = (t.transpose(0, 1)[None] for t in (q, k, v))
    return [tuple(t[0].transpose(0, 1) for t in pair) for pair in attention(*one)]


def decoding(q, k_cache, v_cache, lengths, scale, window) -> list[Pair]:
    return [tuple(t[:, :, 0] for t in pair) for pair in attention(q[:, :, None], k_cache, v_cache)]
