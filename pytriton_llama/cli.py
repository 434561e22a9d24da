"""The ``pytriton-llama`` program.

Bad input ends in one line on stderr and exit code 2. Answers go to stdout, everything about them to stderr. What takes
seconds to import is imported inside the commands, so that ``--help`` answers at once.
"""

import os
import sys
import time
import warnings
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.fetch import DEFAULT
from pytriton_llama.toolchain import advice_on_cache

if TYPE_CHECKING:
    from pytriton_llama.llama.generator import Llama
    from pytriton_llama.llama.sampling import Options

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A Llama that runs on Triton kernels.",
)


class Method(StrEnum):
    """How ``quantize`` chooses the range of a group of weights."""

    clip = "clip"
    round = "round"


Folder = Annotated[Path | None, typer.Argument(help="A new folder; default: in the cache.")]
Model = Annotated[str, typer.Option(help="A checkpoint's folder, or a name that fetch knows.")]
Kernels = Annotated[str, typer.Option(help="auto, triton (interpreted on a CPU) or torch (the oracle).")]
Device = Annotated[str | None, typer.Option(help="cuda or cpu; default: where kernels run.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; default: what suits the device.")]
MaxNewTokens = Annotated[int, typer.Option(help="Stop after so many tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that make up this share, in (0, 1].")]
MinP = Annotated[float | None, typer.Option(help="Draw from tokens at least this times as likely as the likeliest.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1, tokens that have been there are less likely.")]
Stop = Annotated[list[str] | None, typer.Option(help="End the text before this string; may be given several times.")]
Seed = Annotated[int, typer.Option(help="Of the draw; the same seed gives the same text.")]


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="The default model's name, or a repository of the Hugging Face hub.")
    ] = DEFAULT,
) -> None:
    """Bring a model's weights into the cache; print the folder."""
    from pytriton_llama.llama.fetch import fetch as fetch_model

    print(fetch_model(name, progress=_say))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A GGUF file of the llama architecture.")],
    folder: Folder = None,
    keep_quantized: Annotated[
        bool, typer.Option("--keep-quantized", help="Q4_0, Q4_1 and Q8_0 stay as they are: the model runs on them.")
    ] = False,
) -> None:
    """Make a folder in Hugging Face's layout, in bf16 or quantised as it is, of a GGUF file; print it."""
    from pytriton_llama.llama.fetch import import_gguf

    print(import_gguf(file, folder, _say, keep_quantized))


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="A checkpoint's folder, a GGUF file, or a name that fetch knows.")],
    folder: Folder = None,
    bits: Annotated[int, typer.Option(help="4 or 8; the embedding and lm_head always have 8.")] = 4,
    group_size: Annotated[
        int | None,
        typer.Option(help="Weights that share a scale; default: in 4 bits the largest usual number, in 8 a row."),
    ] = None,
    minima: Annotated[bool, typer.Option(help="A group has a minimum beside its scale.")] = False,
    method: Annotated[Method, typer.Option(help="round: each group's own range; clip: that of least error.")] = (
        Method.round
    ),
) -> None:
    """Make a folder of a model's weights in 4 or 8 bits; print it."""
    from pytriton_llama.llama.fetch import quantize as quantize_model

    print(quantize_model(model, folder, bits, group_size, minima, method == Method.clip, _say))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    model: Model = DEFAULT,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    stop: Stop = None,
    seed: Seed = 0,
    kernels: Kernels = "auto",
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Continue a text."""
    options = _options(temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, stop or None, seed)
    llama = _load(model, kernels, device, dtype)
    _print(llama, prompt, options)


@app.command()
def chat(
    message: Annotated[str | None, typer.Argument(help="What you say; without it, a conversation starts.")] = None,
    model: Model = DEFAULT,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    stop: Stop = None,
    seed: Seed = 0,
    kernels: Kernels = "auto",
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Say something, get an answer, through the checkpoint's chat template."""
    options = _options(temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, stop or None, seed)
    llama = _load(model, kernels, device, dtype)
    if message is None:
        from pytriton_llama.repl import Repl

        Repl(llama, options).run()
    else:
        _print(llama, llama.chat_prompt(message), options)


@app.command()
def bench(
    ops: Annotated[list[str] | None, typer.Argument(help="Operations, default: all; or generate.")] = None,
    config: Annotated[
        str, typer.Option(help="Of generate: a shape's name (llama-3.2-1b, llama-3.1-8b), a config.json, or a model.")
    ] = "llama-3.2-1b",
    bits: Annotated[int | None, typer.Option(help="Of generate: 8 or 4, for a shape with quantised weights.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few points, few repeats.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Publish CSV and plot; on an H100 only.")] = False,
) -> None:
    """Measure operations, or the generation of text, beside their peers, on a GPU."""
    if ops == ["generate"]:
        from pytriton_llama.bench.generate import command

        command(config, record, peers=not quick, bits=bits)
    else:
        from pytriton_llama.bench.command import bench as measure

        measure(ops or (), quick, record)


@app.command()
def info() -> None:
    """What this machine has, and what runs on it."""
    from pytriton_llama.info import lines

    print("\n".join(lines()))


def _options(*values) -> "Options":
    from pytriton_llama.llama.sampling import Options

    return Options(*values)


def _load(model: str, kernels: str, device: str | None, dtype: str | None) -> "Llama":
    import torch

    from pytriton_llama.llama.generator import Llama
    from pytriton_llama.runtime import interpreted

    if kernels in ("auto", "triton") and interpreted():
        why = "TRITON_INTERPRET is set" if torch.cuda.is_available() else "no GPU"
        _say(f"{why}: kernels run in Triton's interpreter on the CPU, slowly; --kernels torch is the fast oracle")
    return Llama.from_pretrained(model, device, dtype, kernels, progress=sys.stderr.isatty())


def _print(llama: "Llama", prompt: "str | list[int]", options: "Options") -> None:
    started = time.perf_counter()
    stream = llama.stream(prompt, **asdict(options))
    first = None
    for piece in stream:
        first = first or time.perf_counter()
        print(piece, end="", flush=True)
    print()
    _say(_summary(len(stream.token_ids), started, first, llama.model.bytes_per_token))


def _summary(tokens: int, started: float, first: float | None, bytes_per_token: int) -> str:
    """Tokens, seconds to the first, and the speed of those after it (the first includes the prompt's work)."""
    now = time.perf_counter()
    parts = [f"{tokens} tokens", f"first after {(first or now) - started:.2f} s"]
    if first and tokens > 1 and now > first:
        speed = (tokens - 1) / (now - first)
        parts += [f"{speed:.4g} tokens/s", f"{speed * bytes_per_token / 1e9:.3g} GB/s of weights read"]
    return ", ".join(parts)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _flush() -> None:
    try:
        print(end="", flush=True)
    except OSError as error:
        # Python flushes once more at its end, and would fail with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "stdout") from error


def _fail(message: str, code: int) -> NoReturn:
    _say(f"error: {message}")
    raise SystemExit(code)


def main() -> None:
    """Run the program; never a traceback for what a user did."""
    warnings.showwarning = lambda message, *_: _say(f"note: {message}")  # type: ignore[assignment]
    try:
        try:
            app()
        finally:
            _flush()
    except LlamaError as error:
        _fail(str(error), 2)
    except OSError as error:
        advice = advice_on_cache(error)
        _fail(f"{error}{f' ({advice})' if advice else ''}", 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
