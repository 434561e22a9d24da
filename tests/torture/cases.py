"""What is tortured: every public operation, how its inputs are drawn for one length, and how exact it must be."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from pytriton_llama.kernels import QuantizedWeight
from tests.kernels.test_next_token import FIELDS, state
from tests.kernels.test_quantized_linear import draw as draw_quantized
from tests.torture import sizes

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One line of the table.

    Attributes:
        function: its name in ``kernels`` and in ``reference``.
        draw: all arguments for one length, in their order; tensors are float64, or of a dtype that they keep.
        size: of the arguments in float64: how large the numbers are that each result is a float32 sum of, and how large
            those that are rounded to the dtype on the way; a pair for each result. None: results are exact.
        terms: how many numbers are added up, by length.
        least: the shortest length that is not refused.
        unit: operands whose last stride must be 1; ``contiguous``: those that must be contiguous.
        written: operands that are results as well.
        first: the operands that have a batch, and how many of their rows are the first sequence's.
    """

    function: str
    draw: Callable[[Callable[..., torch.Tensor], int], Arguments]
    size: Callable[..., list] | None
    terms: Callable[[int], int] = lambda n: max(n, 1)
    least: int = 0
    unit: tuple[str, ...] = ()
    contiguous: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    first: dict[str, int] = field(default_factory=dict)

    def accepts(self, name: str, t: torch.Tensor) -> bool:
        """Whether an operand may lie like this."""
        if name in self.contiguous:
            return t.is_contiguous()
        return name not in self.unit or t.stride(-1) == 1

    def run(self, module: ModuleType, arguments: Arguments, in_place: bool = False) -> list[torch.Tensor]:
        """Every result, the operands that it writes among them: ``arguments``' own if ``in_place``, or copies."""
        if not in_place:
            arguments = arguments | {name: arguments[name].clone() for name in self.written}
        returned = getattr(module, self.function)(*arguments.values())
        results = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
        return [*results, *(arguments[name] for name in self.written)]


def cast(arguments: Arguments, dtype: torch.dtype, device: str) -> Arguments:
    """float64 operands in ``dtype``; all where kernels run."""

    def move(a: Any) -> Any:
        if isinstance(a, torch.Tensor):
            return a.to(device, dtype if a.dtype == torch.float64 else a.dtype)
        if isinstance(a, torch.dtype):
            return dtype
        if isinstance(a, QuantizedWeight):
            tensors = {n: getattr(a, n) for n in ("packed", "scales", "minima")}
            return dataclasses.replace(a, **{n: None if t is None else t.to(device) for n, t in tensors.items()})
        return a

    return {name: move(a) for name, a in arguments.items()}


def in_dtype(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """The same numbers, in at least ``dtype``."""
    floating = {n: a for n, a in arguments.items() if isinstance(a, torch.Tensor) and a.is_floating_point()}
    return arguments | {name: a.to(torch.promote_types(a.dtype, dtype)) for name, a in floating.items()}


def draw(operation: Operation, length: int) -> Arguments:
    generator = torch.Generator().manual_seed(1337 + length)
    return operation.draw(lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64), length)


def operands(operation: Operation, length: int) -> list[str]:
    """The arguments that are drawn: read, and of the operation's dtype."""
    arguments = draw(operation, length)
    return [
        name
        for name, a in arguments.items()
        if isinstance(a, torch.Tensor) and a.dtype == torch.float64 and name not in operation.written
    ]


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


def angles(length: int, head_dim: int) -> Arguments:
    turns = torch.arange(length, dtype=torch.float32)[:, None] * 0.9 ** torch.arange(head_dim // 2)
    turns = torch.cat((turns, turns), -1)
    return {"cos": turns.cos(), "sin": turns.sin()}


def attention(length_q: int | None, causal: bool, windowed: bool) -> Callable:
    def draw(r: Callable, n: int) -> Arguments:
        queries = n if length_q is None else min(n, length_q)
        # A key in the middle is seen by every query.
        window = max(1, n * 3 // 4) if windowed else None
        keys = 33 if length_q is None else n
        q, k, v = r(2, 4, queries, 32), r(2, 2, keys, 32), r(2, 2, keys, 32)
        return {"q": q, "k": k, "v": v, "causal": causal, "scale": None, "window": window, "return_lse": True}

    return draw


def varlen(r: Callable, n: int) -> Arguments:
    """Three sequences, the second one with neither query nor key."""
    starts = ([0, 3, 3, 7], [0, n, n, n + 5])
    cu_seqlens = {f"cu_seqlens_{s}": torch.tensor(t, dtype=torch.int32) for s, t in zip("qk", starts, strict=True)}
    return {"q": r(7, 4, 32), "k": r(n + 5, 2, 32), "v": r(n + 5, 2, 32), **cu_seqlens, "causal": False}


def decoding(r: Callable, n: int) -> Arguments:
    lengths = torch.tensor([n, n // 2, min(n, 1)], dtype=torch.int32)
    return {"q": r(3, 4, 32), "k_cache": r(3, 2, n, 32), "v_cache": r(3, 2, n, 32), "lengths": lengths}


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


def int4(N: int | None, K: int, minima: bool = False) -> Callable:
    """Weights of 4 bits. Without N, n rows of K numbers; else rows of n · K."""

    def make(n: int, seed: int) -> QuantizedWeight:
        if N is not None and n == 0:
            return QuantizedWeight(torch.empty(N, 0, dtype=torch.int32), torch.empty(N, 0).half(), None, 4, 32)
        return draw_quantized(*((n, K) if N is None else (N, K * n)), (4, 32, minima), "cpu", seed)

    return make


def qkv(M: int, quantized: bool) -> Callable:
    """4 heads and 2 key/value heads of 16. The length is the hidden size's, or that of a packed weight's cache."""

    def draw(r: Callable, n: int) -> Arguments:
        w = draw_quantized(128, 64, (4, 32, False), "cpu") if quantized else weight(r, 128, n)
        positions = n + 1 if quantized else 9
        x, norm = r(M, w.shape[1]), r(w.shape[1])
        lengths = positions - torch.arange(M, dtype=torch.int32).clamp(max=positions - 1)
        caches = {name: torch.full((M, 2, positions, 16), torch.nan, dtype=torch.float64) for name in CACHES}
        first = {"x": x, "weight": w, "bias": r(128), "norm_weight": norm, "eps": 1e-5}
        return first | angles(positions, 16) | {"lengths": lengths} | caches

    return draw


def tokens(r: Callable, n: int) -> Arguments:
    values = state(
        "cpu", temperature=[0.0, 1.0, 0.5], seeds=[1, 2, 2**40 + 5], lengths=[3, 10, 5], limits=[6, 10, 100],
        running=[1, 1, 1], stop_tokens=[5, 7], tokens=[[9] * 3] * 2, steps=[0] * 3,
    )  # fmt: skip
    x = torch.full((3, 8), torch.nan, dtype=torch.float64)
    return {"logits": r(3, n), **values, "embedding": r(n, 8), "x": x}


CACHES = ("k_cache", "v_cache")
QKV_CONTIGUOUS = ("x", "weight", "bias", "norm_weight", "cos", "sin", "lengths")
STEP = ("x", "weight", "bias", "norm_weight", "residual", "up_weight")
ROWS = {"x": 1, "residual": 1}
ATTENTION = {"unit": ("q", "k", "v"), "first": {"q": 1, "k": 1, "v": 1}}
DECODE_QKV = {"contiguous": QKV_CONTIGUOUS, "unit": CACHES, "written": CACHES, "first": {"x": 1}}
PRODUCT = {"size": sizes.linear, "first": ROWS}


def of_40(n: int) -> int:
    return 40


OPERATIONS = {
    "softmax": Operation("softmax", lambda r, n: {"x": 4 * r(3, n)}, sizes.softmax, first=ROWS),
    "softmax of columns": Operation("softmax", lambda r, n: {"x": r(n, 3), "dim": 0}, sizes.softmax),
    "rms_norm": Operation("rms_norm", lambda r, n: {"x": r(3, n), "weight": r(n)}, sizes.rms_norm, first=ROWS),
    "add_rms_norm": Operation(
        "add_rms_norm",
        lambda r, n: {"x": r(3, n), "residual": r(3, n), "weight": r(n)},
        sizes.add_rms_norm,
        first=ROWS,
    ),
    "layer_norm": Operation(
        "layer_norm", lambda r, n: {"x": r(3, n), "weight": r(n), "bias": r(n)}, sizes.layer_norm, first=ROWS
    ),
    "silu_mul": Operation(
        "silu_mul",
        lambda r, n: {"gate": r(3, n), "up": r(3, n)},
        sizes.silu_mul,
        terms=lambda n: 1,
        first={"gate": 1, "up": 1},
    ),
    "linear": Operation("linear", linear(3, 21, None, "gelu_tanh"), **PRODUCT),
    "linear, many columns": Operation("linear", linear(3, None, 40, "silu"), terms=of_40, **PRODUCT),
    "linear, many rows": Operation("linear", linear(None, 21, 40, None), terms=of_40, **PRODUCT),
    "swiglu": Operation(
        "swiglu",
        lambda r, n: {"x": r(3, n), "gate_weight": weight(r, 21, n), "up_weight": weight(r, 21, n)},
        sizes.swiglu,
        first=ROWS,
    ),
    "fused_ffn": Operation("fused_ffn", fused_ffn, sizes.fused_ffn, first=ROWS),
    "rotary_embedding": Operation(
        "rotary_embedding",
        lambda r, n: {"q": r(2, 3, n, 16), "k": r(2, 1, n, 16), **angles(n, 16)},
        sizes.rotary_embedding,
        terms=lambda n: 2,
        unit=("q", "k"),
        first={"q": 1, "k": 1},
    ),
    "flash_attention": Operation("flash_attention", attention(5, True, False), sizes.attention, **ATTENTION),
    "flash_attention, window": Operation("flash_attention", attention(5, True, True), sizes.attention, **ATTENTION),
    "flash_attention, many queries": Operation(
        "flash_attention", attention(None, False, False), sizes.attention, **ATTENTION
    ),
    "flash_attention_varlen": Operation("flash_attention_varlen", varlen, sizes.varlen, unit=("q", "k", "v")),
    "flash_decoding": Operation(
        "flash_decoding",
        decoding,
        sizes.decoding,
        unit=("q", *CACHES),
        first={"q": 1, "k_cache": 1, "v_cache": 1},
    ),
    "decode_linear, one row": Operation("decode_linear", step(1, False), sizes.step, least=1, contiguous=STEP),
    "decode_linear": Operation("decode_linear", step(3, False), sizes.step, least=1, contiguous=STEP, first=ROWS),
    "decode_linear, gated": Operation("decode_linear", step(3, True), sizes.step, least=1, contiguous=STEP, first=ROWS),
    "decode_qkv": Operation("decode_qkv", qkv(3, False), sizes.qkv, least=1, **DECODE_QKV),
    "quantized_linear, one row": Operation(
        "quantized_linear",
        step(1, False, int4(5, 32), normed=False),
        sizes.step,
        lambda n: 32 * n,
        least=1,
        contiguous=STEP,
    ),
    "quantized_linear, one row, minima": Operation(
        "quantized_linear", step(1, True, int4(None, 64, True)), sizes.step, lambda n: 64, contiguous=STEP
    ),
    "quantized_linear": Operation(
        "quantized_linear",
        step(3, False, int4(None, 64), normed=False),
        sizes.step,
        lambda n: 64,
        contiguous=STEP,
        first=ROWS,
    ),
    "quantized_linear, minima": Operation(
        "quantized_linear", step(3, True, int4(None, 64, True)), sizes.step, lambda n: 64, contiguous=STEP, first=ROWS
    ),
    "quantized_qkv, one row": Operation("quantized_qkv", qkv(1, True), sizes.qkv, lambda n: 64, **DECODE_QKV),
    "quantized_qkv": Operation("quantized_qkv", qkv(3, True), sizes.qkv, lambda n: 64, **DECODE_QKV),
    "dequantize": Operation(
        "dequantize", lambda r, n: {"weight": int4(None, 64, True)(n, 0), "dtype": torch.float32}, None
    ),
    "next_token": Operation(
        "next_token",
        tokens,
        None,
        least=1,
        contiguous=("logits", "embedding", "x", *FIELDS),
        written=(*(name for name in FIELDS if name in ("lengths", "running", "tokens", "steps")), "x"),
        first={"logits": 1},
    ),
}
