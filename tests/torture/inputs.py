"""How an operation's inputs are drawn for one length: functions of a source of normal numbers and the length."""

from collections.abc import Callable

import torch

from pytriton_llama.kernels import QuantizedWeight
from tests.kernels.test_next_token import state
from tests.kernels.test_quantized_linear import draw as draw_quantized
from tests.torture.operation import Arguments

CACHES = ("k_cache", "v_cache")


def weight(r: Callable, N: int, K: int) -> torch.Tensor:
    return r(N, K) * max(K, 1) ** -0.5


def linear(M: int | None, N: int | None, K: int | None, activation: str | None) -> Callable:
    """Arguments of ``linear``; the dimension that is None has the length."""

    def draw(r: Callable, n: int) -> Arguments:
        m, rows, k = (n if size is None else size for size in (M, N, K))
        x, w = r(m, k), weight(r, rows, k)
        return {"x": x, "weight": w, "bias": r(rows), "activation": activation, "residual": r(m, rows)}

    return draw


def fused_ffn(r: Callable, n: int) -> Arguments:
    arguments = linear(3, 21, None, "gelu_tanh")(r, n)
    x, w, bias, activation, residual = arguments.values()
    names = ("x", "weight", "bias", "residual", "activation", "dropout_p", "seed")
    return dict(zip(names, (x, w.t().contiguous(), bias, residual, activation, 0.25, 7), strict=True))


def angles(positions: torch.Tensor, head_dim: int) -> Arguments:
    turns = positions[..., None] * 0.9 ** torch.arange(head_dim // 2)
    turns = torch.cat((turns, turns), -1)
    return {"cos": turns.cos(), "sin": turns.sin()}


def rotary_embedding(starts: list[int] | None) -> Callable:
    """3 sequences at the same positions, or each from a start of its own."""

    def draw(r: Callable, n: int) -> Arguments:
        positions = torch.arange(n) if starts is None else torch.tensor(starts)[:, None] + torch.arange(n)
        return {"q": r(3, 4, n, 16), "k": r(3, 3, n, 16), **angles(positions, 16)}

    return draw


def attention(length_q: int | None, causal: bool, windowed: bool) -> Callable:
    def draw(r: Callable, n: int) -> Arguments:
        queries = None if length_q is None else min(n, length_q)
        # A key in the middle is seen by every query.
        window = max(1, n * 3 // 4) if windowed else None
        if length_q is None:  # which are many programs: of one sequence and key/value head
            q, k, v = r(1, 3, n, 32), r(1, 1, 33, 32), r(1, 1, 33, 32)
        else:
            q, k, v = r(3, 6, queries, 32), r(3, 3, n, 32), r(3, 3, n, 32)
        return {"q": q, "k": k, "v": v, "causal": causal, "scale": None, "window": window, "return_lse": True}

    return draw


def varlen(causal: bool) -> Callable:
    """Three sequences, the second one with neither query nor key."""

    def draw(r: Callable, n: int) -> Arguments:
        starts = ([0, 3, 3, 7], [0, n, n, n + 5])
        cu_seqlens = {f"cu_seqlens_{s}": torch.tensor(t, dtype=torch.int32) for s, t in zip("qk", starts, strict=True)}
        return {"q": r(7, 6, 32), "k": r(n + 5, 3, 32), "v": r(n + 5, 3, 32), **cu_seqlens, "causal": causal}

    return draw


def decoding(windowed: bool) -> Callable:
    def draw(r: Callable, n: int) -> Arguments:
        lengths = torch.tensor([n, n // 2, min(n, 1)], dtype=torch.int32)
        window = max(1, n * 3 // 4) if windowed else None
        q, k, v = r(3, 6, 32), r(3, 3, n, 32), r(3, 3, n, 32)
        return {"q": q, "k_cache": k, "v_cache": v, "lengths": lengths, "scale": None, "window": window}

    return draw


def step(M: int, gated: bool, quantized: Callable | None = None, normed: bool = True) -> Callable:
    """Arguments of ``decode_linear``, or of ``quantized_linear`` where there is a way to make its weights."""

    def draw(r: Callable, n: int) -> Arguments:
        w = quantized(n, 0) if quantized else weight(r, 21, n)
        up = (quantized(n, 1) if quantized else weight(r, 21, n)) if gated else None
        N, K = w.shape
        bias, residual = None if gated else r(N), r(M, N)
        x, norm = r(M, K), r(K) if normed else None
        names = ("x", "weight", "bias", "norm_weight", "eps", "residual", "up_weight")
        return dict(zip(names, (x, w, bias, norm, 1e-5, residual, up), strict=True))

    return draw


def packed(bits: int, N: int | None, K: int, minima: bool = False) -> Callable:
    """Packed weights. Without N, n rows of K numbers; else rows of n · K."""

    def make(n: int, seed: int) -> QuantizedWeight:
        if N is not None and n == 0:
            return QuantizedWeight(torch.empty(N, 0, dtype=torch.int32), torch.empty(N, 0).half(), None, bits, 32)
        return draw_quantized(*((n, K) if N is None else (N, K * n)), (bits, 32, minima), "cpu", seed)

    return make


def qkv(M: int, bits: int | None) -> Callable:
    """4 heads and 3 key/value heads of 16. The length is the hidden size's, or that of a packed weight's cache."""

    def draw(r: Callable, n: int) -> Arguments:
        w = draw_quantized(160, 64, (bits, 32, False), "cpu") if bits else weight(r, 160, n)
        positions = n + 1 if bits else 9
        x, norm = r(M, w.shape[1]), r(w.shape[1])
        lengths = positions - torch.arange(M, dtype=torch.int32).clamp(max=positions - 1)
        caches = {name: torch.full((M, 3, positions, 16), torch.nan, dtype=torch.float64) for name in CACHES}
        first = {"x": x, "weight": w, "bias": r(160), "norm_weight": norm, "eps": 1e-5}
        return first | angles(torch.arange(positions), 16) | {"lengths": lengths} | caches

    return draw


def tokens(quantized: bool) -> Callable:
    def draw(r: Callable, n: int) -> Arguments:
        values = state(
            "cpu", temperature=[0.0, 1.0, 0.5], seeds=[1, 2, 2**40 + 5], lengths=[3, 10, 5], limits=[6, 10, 100],
            running=[1, 1, 1], stop_tokens=[5, 7], tokens=[[9] * 3] * 2, steps=[0] * 3,
        )  # fmt: skip
        embedding = packed(4, None, 32, True)(n, 0) if quantized else r(n, 32)
        x = torch.full((3, 32), torch.nan, dtype=torch.float64)
        return {"logits": r(3, n), **values, "embedding": embedding, "x": x}

    return draw
