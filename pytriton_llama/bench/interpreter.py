"""Seconds a token on a CPU: Triton's own interpreter, ours, and ours while it traces.

    python -m pytriton_llama.bench.interpreter

All three run the default model in this one process, in float32, and must choose the same tokens as plain torch before
anything is timed.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from pytriton_llama import Llama, interpreter
from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.fetch import DEFAULT
from pytriton_llama.runtime import interpreted

PROMPT = "The capital of France is"
TOKENS = 8


def step_times(llama: Llama, ids: list[int], tokens: int) -> tuple[list[int], float, float]:
    """Greedy token ids, seconds of the prefill, and the median of seconds a decode step."""
    model = llama.model
    made: list[int] = []
    times: list[float] = []
    started = time.perf_counter()
    cache = KVCache(llama.config, 1, len(ids) + tokens, model.device, model.dtype)
    logits = model.prefill(torch.tensor(ids), cache, 0)[None]
    prefill = time.perf_counter() - started
    for _ in range(tokens):
        token = logits.argmax(-1)
        made.append(int(token))
        started = time.perf_counter()
        logits = model.decode(token, cache)
        times.append(time.perf_counter() - started)
    return made, prefill, statistics.median(times)


def main() -> None:
    """Print the table."""
    if not interpreted():
        raise LlamaError("kernels are compiled in this process: set TRITON_INTERPRET=1 to time the interpreter")
    llama = Llama.from_pretrained(DEFAULT, dtype="float32", kernels="triton")
    torchs = Llama.from_pretrained(DEFAULT, dtype="float32", kernels="torch")
    ids = llama.tokenizer.encode(PROMPT)
    long = (ids * 64)[:64]
    expected = step_times(torchs, ids, TOKENS)[0]

    def stock() -> AbstractContextManager:
        interpreter.disable()
        return nullcontext()

    def fast() -> AbstractContextManager:
        interpreter.enable()
        return nullcontext()

    def traced() -> AbstractContextManager:
        interpreter.enable()
        return interpreter.trace()

    ways: dict[str, tuple[Callable[[], AbstractContextManager], int]] = {
        "stock": (stock, 2),
        "fast": (fast, TOKENS),
        "fast, traced": (traced, TOKENS),
    }
    print(f"{'interpreter':14} {'s a token':>10} {'s for a prompt of 64':>22}")
    for name, (way, tokens) in ways.items():
        with way():
            # The first round also checks, and warms what is decided once.
            made = step_times(llama, ids, tokens)[0]
            if made != expected[:tokens]:
                raise LlamaError(f"{name}: chose {made}, torch {expected[:tokens]}: a wrong kernel gets no time")
            _, _, decode = step_times(llama, ids, tokens)
            _, prefill, _ = step_times(llama, long, 1)
        print(f"{name:14} {decode:10.3f} {prefill:22.2f}")


if __name__ == "__main__":
    main()
