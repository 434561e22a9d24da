"""``pytriton-llama bench generate``: the whole loop of generating text, beside torch.compile and transformers.

Batch 1, greedy, token by token as a user gets them. Every contender has the same weights, and its logits must agree
with ours before it is timed. Where our weights are in 8 or 4 bits, the others have what these bits stand for.
"""

import csv
import datetime
import functools
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from pytriton_llama.bench import decode_steps, settings
from pytriton_llama.bench.decode_steps import MARGIN
from pytriton_llama.bench.quantized_models import expanded, quantized
from pytriton_llama.bench.results import Environment
from pytriton_llama.bench.torch_decoder import TorchDecoder, error
from pytriton_llama.llama.generator import Llama
from pytriton_llama.llama.memory import bytes_per_token
from pytriton_llama.llama.model import LlamaModel
from pytriton_llama.llama.sampling import Sampling
from pytriton_llama.llama.shapes import SHAPES

# On average 256 tokens in the cache while so many are made.
PROMPT, NEW = 128, 257
LONG_PROMPT = 2048
# Logits further off than this, relative to the whole, are another model's: 16 bits are off by some 0.05.
SAME = 0.2
# Sequences at once, and the tokens in each one's cache, on average, while NEW_EACH are made.
BATCHES, CONTEXT, NEW_EACH = (16, 64), 1024, 128


@dataclass(frozen=True)
class Row:
    """One contender. Empty where it was not measured; ``note`` says why."""

    config: str
    contender: str
    tokens_per_s: str
    ms_per_token: str
    first_token_ms: str
    prefill_tokens_per_s: str
    GB_per_s: str
    share_of_read: str
    note: str
    gpu: str
    driver: str
    versions: str
    date: str


@dataclass
class Times:
    """Seconds: a token after the first; from the call to the first token; of a long prompt."""

    token: float
    first: float | None = None
    prefill: float | None = None


def prompt_ids(vocab_size: int, length: int) -> list[int]:
    return torch.randint(5, vocab_size, (length,), generator=torch.Generator().manual_seed(1)).tolist()


def ours(llama: Llama) -> Times:
    """Medians of three whole generations, and of five long prompts."""
    prompt, long = (prompt_ids(llama.config.vocab_size, n) for n in (PROMPT, LONG_PROMPT))
    long = long[: llama.config.max_position_embeddings - 1]
    tokens, firsts = [], []
    for i in range(4):
        started = time.perf_counter()
        stream = llama.stream(prompt, max_new_tokens=NEW)
        next(stream)
        first, made = time.perf_counter(), len(stream.token_ids)
        for _ in stream:
            pass
        if i:  # the first compiles and captures
            tokens.append((time.perf_counter() - first) / (len(stream.token_ids) - made))
            firsts.append(first - started)
    prefill = timed(lambda: llama.generate(long, max_new_tokens=1), 5)
    return Times(statistics.median(tokens), statistics.median(firsts), prefill * LONG_PROMPT / len(long))


def ours_together(llama: Llama, batch: int) -> Times:
    """Seconds a step of a batch: each of its sequences gets one token."""
    prompts = [prompt_ids(llama.config.vocab_size, CONTEXT - NEW_EACH // 2)] * batch
    times = []
    for _ in range(3):
        stamps = []
        steps = llama.engine.run(prompts, [CONTEXT + NEW_EACH // 2 - 1] * batch, Sampling(), seed=0)
        for _ in range(NEW_EACH):
            next(steps)
            stamps.append(time.perf_counter())
        steps.close()
        # The first steps contain a capture.
        times.append((stamps[-1] - stamps[4]) / (NEW_EACH - 5))
    llama.engine.release()
    return Times(statistics.median(times))


def timed(call: Callable[[], Any], repeats: int) -> float:
    """The median of seconds a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


@torch.no_grad()
def compiled(llama: Llama) -> Times:
    """gpt-fast's method: ``torch.compile(mode="reduce-overhead")`` of a step over a static cache."""
    device, prompt = llama.model.device, prompt_ids(llama.config.vocab_size, PROMPT)
    decoder = TorchDecoder(llama.model, PROMPT + NEW)
    ids = torch.tensor(prompt, device=device)
    agree(decoder(ids, torch.arange(PROMPT, device=device)), llama)
    step = torch.compile(decoder.next_token, mode="reduce-overhead", fullgraph=True, dynamic=False)
    token = step(ids[-1:], torch.tensor([PROMPT - 1], device=device)).clone()

    def generate() -> None:
        nonlocal token
        for position in range(PROMPT, PROMPT + NEW - 1):
            token = step(token, torch.tensor([position], device=device)).clone()
            token.item()  # streamed

    return Times(timed(generate, 3) / (NEW - 1))


def transformers_model(llama: Llama, weights: dict[str, torch.Tensor]) -> Any:
    """transformers' model with ``weights``, which it takes as they are."""
    import transformers

    c = llama.config
    scaling = None if c.rope_scaling is None else {k: v for k, v in asdict(c.rope_scaling).items() if v is not None}
    values = {k: v for k, v in asdict(c).items() if k not in ("rope_scaling", "eos_token_ids")}
    config = transformers.LlamaConfig(
        **values, rope_scaling=scaling, eos_token_id=None, pad_token_id=0, attn_implementation="sdpa"
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(llama.model.device)  # what no checkpoint holds
    model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)
    return model.eval()


@torch.no_grad()
def transformers_generate(llama: Llama, model: Any, **options) -> Times:
    ids = torch.tensor([prompt_ids(llama.config.vocab_size, PROMPT)], device=llama.model.device)
    agree(model(ids, logits_to_keep=1).logits[0, -1], llama)
    repeats = 1 if not options else 3

    def generate(new: int) -> float:
        mask = torch.ones_like(ids)
        return timed(
            lambda: model.generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, **options), repeats
        )

    first = generate(1)
    return Times((generate(NEW) - first) / (NEW - 1), first)


@torch.no_grad()
def transformers_prefill(llama: Llama, model: Any) -> float:
    """Seconds of a long prompt through ``torch.compile`` of the model, with SDPA."""
    ids = torch.tensor([prompt_ids(llama.config.vocab_size, LONG_PROMPT)], device=llama.model.device)
    forward = torch.compile(model.forward, dynamic=False)
    return timed(lambda: forward(ids, logits_to_keep=1, use_cache=True), 5)


def agree(logits: torch.Tensor, llama: Llama, packed: Llama | None = None) -> None:
    """Raise unless these are logits of the prompt's last token, and ours no further from float32's than they are.

    ``packed``: ours, if it is not ``llama`` itself.
    """
    prompt = prompt_ids(llama.config.vocab_size, PROMPT)
    ids, positions = (torch.tensor(each, device=llama.model.device) for each in (prompt, range(PROMPT)))
    exact = TorchDecoder(llama.model, PROMPT)(ids, positions, torch.float32)
    theirs, ours = error(logits, exact), error((packed or llama).logits(prompt)[-1], exact)
    assert theirs < SAME, f"logits are {theirs:.2g} off"
    assert ours <= MARGIN * theirs + 1e-6, f"our logits are {ours:.2g} off, theirs {theirs:.2g}"


def read_bandwidth() -> float:
    """Bytes a second of the fastest read there is: a large matrix times a vector."""
    matrix = torch.randn(131072, 8192, dtype=torch.bfloat16, device="cuda")
    vector = torch.randn(8192, dtype=torch.bfloat16, device="cuda")
    calls = 10

    def read() -> None:
        for _ in range(calls):
            torch.mv(matrix, vector)

    return matrix.nbytes * calls / timed(read, 5)


def run(
    config: str, environment: Environment, peers: bool, bits: int | None = None
) -> tuple[list[Row], dict[str, float], dict]:
    """Rows of all contenders, seconds a token by :mod:`~pytriton_llama.bench.decode_steps`, and by kernel."""
    if bits is not None:
        return run_quantized(config, environment, bits), {}, {}
    from_shape = config in SHAPES or Path(config).suffix == ".json"
    llama = Llama.from_config(config) if from_shape else Llama.from_pretrained(config)
    ceiling = read_bandwidth()
    a_position = bytes_per_token(llama.config, llama.model.dtype)
    rows = []

    def enter(contender: str, measure: Callable[[], Times], batch: int = 1, context: int = PROMPT + NEW // 2) -> None:
        try:
            times, note = measure(), ""
        except Exception as error:  # a peer that is missing, or that cannot do it here
            if contender.startswith(settings.OURS):
                raise
            times, note = None, " ".join(f"{type(error).__name__}: {error}".split())[:200]
        moved = llama.model.bytes_per_token + batch * context * a_position
        rows.append(_row(config, contender, times, note, batch, moved, ceiling, environment))
        print(f"{contender}: {rows[-1].tokens_per_s or note} tokens/s", file=sys.stderr, flush=True)
        gc.collect()
        torch.cuda.empty_cache()

    enter(settings.OURS, lambda: ours(llama))
    for batch in BATCHES:
        enter(f"{settings.OURS}, {batch} sequences", functools.partial(ours_together, llama, batch), batch, CONTEXT)
    steps = decode_steps.measure(llama.model, PROMPT + NEW // 2)
    kernels = decode_steps.kernel_times(llama.model, PROMPT + NEW // 2)
    enter("torch.compile", lambda: compiled(llama))
    if peers:
        torch.compiler.reset()
        theirs = transformers_model(llama, _weights(llama))

        def eager() -> Times:
            return transformers_generate(llama, theirs)

        def static() -> Times:
            times = transformers_generate(llama, theirs, cache_implementation="static")
            torch.compiler.reset()
            times.prefill = transformers_prefill(llama, theirs)
            return times

        enter("transformers", eager)
        enter("transformers, static cache + compile", static)
    return rows, steps, kernels


def run_quantized(config: str, environment: Environment, bits: int) -> list[Row]:
    """Rows of ours in so many bits, and of what the same weights take in the model's own type."""
    llama, ceiling = quantized(config, bits), read_bandwidth()
    plain = expanded(llama)
    prompt = torch.tensor(prompt_ids(llama.config.vocab_size, PROMPT), device=llama.model.device)
    positions = torch.arange(PROMPT, device=llama.model.device)
    agree(TorchDecoder(plain.model, PROMPT)(prompt, positions), plain, llama)
    name = f"{config}-int{bits}{'-128' if bits == 4 else ''}"
    a_position = bytes_per_token(llama.config, llama.model.dtype)
    contenders: list[tuple[str, LlamaModel, Callable[[], Times], int, int]] = [
        (settings.OURS, llama.model, lambda: ours(llama), 1, PROMPT + NEW // 2),
        *(
            (f"{settings.OURS}, {n} sequences", llama.model, functools.partial(ours_together, llama, n), n, CONTEXT)
            for n in BATCHES
        ),
        (f"{settings.OURS}, 16 bits", plain.model, lambda: ours(plain), 1, PROMPT + NEW // 2),
        ("torch.compile, 16 bits", plain.model, lambda: compiled(plain), 1, PROMPT + NEW // 2),
    ]
    rows = []
    for contender, model, measure, batch, context in contenders:
        times = measure()
        moved = model.bytes_per_token + batch * context * a_position
        rows.append(_row(name, contender, times, "", batch, moved, ceiling, environment))
        print(f"{contender}: {rows[-1].tokens_per_s} tokens/s", file=sys.stderr, flush=True)
    return rows


def _weights(llama: Llama) -> dict[str, torch.Tensor]:
    """Under transformers' names; q, k and v are parts of the tensor that we have joined."""
    model, c = llama.model, llama.config
    weights = {"model.embed_tokens.weight": model.embed_tokens, "model.norm.weight": model.norm}
    if not c.tie_word_embeddings:
        weights["lm_head.weight"] = model.lm_head
    sizes = [n * c.head_dim for n in (c.num_attention_heads, c.num_key_value_heads, c.num_key_value_heads)]
    for i, layer in enumerate(model.layers):
        named = {f"self_attn.{n}_proj": w for n, w in zip("qkv", layer.qkv_proj.split(sizes), strict=True)}
        named |= {"self_attn.o_proj": layer.o_proj, "mlp.gate_proj": layer.gate_proj, "mlp.up_proj": layer.up_proj}
        named |= {"mlp.down_proj": layer.down_proj, "input_layernorm": layer.input_layernorm}
        named |= {"post_attention_layernorm": layer.post_attention_layernorm}
        weights |= {f"model.layers.{i}.{name}.weight": t for name, t in named.items()}
    return weights


def _row(config, contender, times, note, batch, moved, ceiling, environment) -> Row:
    numbers = dict.fromkeys([field.name for field in fields(Row)][2:8], "")
    if times:
        numbers["tokens_per_s"] = f"{batch / times.token:.1f}"
        numbers["ms_per_token"] = f"{1e3 * times.token:.4f}"
        numbers["first_token_ms"] = "" if times.first is None else f"{1e3 * times.first:.2f}"
        numbers["prefill_tokens_per_s"] = "" if times.prefill is None else f"{LONG_PROMPT / times.prefill:.0f}"
        numbers["GB_per_s"] = f"{moved / times.token / 1e9:.0f}"
        numbers["share_of_read"] = f"{moved / times.token / ceiling:.3f}"
    today = datetime.date.today().isoformat()
    return Row(config, contender, **numbers, note=note, **asdict(environment), date=today)


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = ("", "tokens/s", "ms a token", "first token, ms", "prefill, tokens/s", "GB/s", "of read bandwidth")
    lines = [head, ("--", *["--:"] * 6)]
    for row in rows:
        numbers = (row.tokens_per_s, row.ms_per_token, row.first_token_ms, row.prefill_tokens_per_s, row.GB_per_s)
        lines.append((row.contender, *(number or "–" for number in (*numbers, row.share_of_read))))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def result_name(config: str) -> str:
    return f"generate-{Path(config).name}"


def section(rows: list[Row]) -> str:
    """What README.md shows."""
    name, first = result_name(rows[0].config), rows[0]
    return (
        f"\n{table(rows)}\n\nGreedy, one sequence where not said, {PROMPT} tokens of prompt and {NEW} new ones, the "
        f"whole loop as a user sees it; prefill of {LONG_PROMPT}; several sequences at {CONTEXT} tokens each. Measured "
        f"on one {first.gpu}, driver {first.driver}, {first.versions}, {first.date}. "
        f"[{name}.csv](benchmark_result/{name}.csv).\n"
    )


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def write(folder: Path, rows: list[Row], steps: dict[str, float], kernels: dict[str, tuple[int, float]]) -> None:
    """``generate-CONFIG.csv`` and its plot, ``decode-steps-CONFIG.csv`` and ``decode-kernels-CONFIG.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    name = result_name(rows[0].config)
    _write(folder / f"{name}.csv", [field.name for field in fields(Row)], [tuple(asdict(row).values()) for row in rows])
    origin = (rows[0].gpu, rows[0].versions, rows[0].date)
    tables: dict[str, tuple[tuple[str, ...], list[tuple]]] = {
        "decode-steps": (("step",), [(step, f"{1e6 * s:.1f}") for step, s in steps.items()]),
        "decode-kernels": (("kernel", "launches"), [(k, n, f"{1e6 * s:.1f}") for k, (n, s) in kernels.items()]),
    }
    for kind, (names, lines) in tables.items():
        if lines:
            head = (*names, "us_per_token", "gpu", "versions", "date")
            _write(folder / f"{name.replace('generate', kind)}.csv", head, [(*line, *origin) for line in lines])
    plot(rows, folder / f"{name}.png")


def _write(path: Path, head: Sequence[str], lines: Sequence[tuple]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Tokens a second as bars, and how many the read bandwidth allows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.tokens_per_s and "sequences" not in row.contender][::-1]
    figure = Figure(figsize=(9.0, 0.7 + 0.5 * len(shown)), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    speeds = [float(row.tokens_per_s) for row in shown]
    colours = ["#D55E00" if row.contender == settings.OURS else "#0072B2" for row in shown]
    bars = axes.barh([row.contender for row in shown], speeds, color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    ceiling = speeds[-1] / float(shown[-1].share_of_read)
    axes.axvline(ceiling, color="black", linestyle=(0, (1, 1)))
    axes.set_xlim(0, 1.1 * ceiling)
    axes.set_xlabel("tokens/s, batch 1 (dotted: every byte once, at the read bandwidth)")
    axes.set_title(f"{shown[-1].config}, {shown[-1].gpu}", fontsize=10)
    figure.savefig(path, metadata={"Software": None})


def command(config: str, record: bool, peers: bool = True, bits: int | None = None) -> None:
    """Measure, print, and write into ``benchmark_result/local`` or, to record, ``benchmark_result``."""
    from pytriton_llama.bench import timing
    from pytriton_llama.bench.command import allow_recording

    timing.CudaTimer()  # raises where there is no GPU
    environment = timing.environment()
    if record:
        allow_recording(environment.gpu)
    rows, steps, kernels = run(config, environment, peers, bits)
    print(f"## {rows[0].config}\n\n{table(rows)}\n")
    print("\n".join(f"{row.contender}: {row.note}" for row in rows if row.note))
    print("\n".join(f"{1e6 * seconds:9.1f} µs a token  {step}" for step, seconds in steps.items()), end="\n\n")
    for kernel, (launches, seconds) in sorted(kernels.items(), key=lambda item: -item[1][1]):
        print(f"{1e6 * seconds:9.1f} µs a token  {launches:4d} × {kernel}")
    write(settings.RECORDED if record else settings.LOCAL, rows, steps, kernels)
