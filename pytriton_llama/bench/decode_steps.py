"""One token of batch 1, from eager torch to the package's step, one idea at a time."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from pytriton_llama import kernels
from pytriton_llama.bench.torch_decoder import TorchDecoder, error
from pytriton_llama.kernels import tiles
from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.model import LlamaModel

Step = Callable[[], torch.Tensor]
# How much further off than eager torch's 16 bits a result may be: luck in rounding.
MARGIN = 1.5


@contextlib.contextmanager
def without_pdl() -> Iterator[None]:
    """Every kernel waits until the one before it has ended."""
    dependent = tiles.dependent
    tiles.dependent = lambda device: {"PDL": False}  # type: ignore[assignment]
    try:
        yield
    finally:
        tiles.dependent = dependent


def gemv(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
    return kernels.decode_linear(x, weight, residual=residual)


def matrix(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
    return kernels.linear(x, weight, residual=residual)


def apart(model: LlamaModel, x: torch.Tensor, cache: KVCache, length: int, linear: Callable) -> torch.Tensor:
    """A step in which nothing is fused that notebooks 01–08 have not fused."""
    config, eps = model.config, model.config.rms_norm_eps
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    cos, sin = model.cos[length - 1 : length], model.sin[length - 1 : length]
    for layer, keys, values in zip(model.layers, cache.keys, cache.values, strict=True):
        qkv = linear(kernels.rms_norm(x, layer.input_layernorm, eps), layer.qkv_proj)
        q, k, v = qkv.view(1, -1, 1, config.head_dim).split((heads, kv_heads, kv_heads), dim=1)
        q, k = kernels.rotary_embedding(q, k, cos, sin)
        keys[:, :, length - 1], values[:, :, length - 1] = k[:, :, 0], v[:, :, 0]
        o = kernels.flash_decoding(q[:, :, 0], keys, values, cache.lengths).flatten(1)
        x = linear(o, layer.o_proj, x)
        h = kernels.rms_norm(x, layer.post_attention_layernorm, eps)
        if linear is matrix:
            h = kernels.swiglu(h, layer.gate_proj, layer.up_proj)
        else:
            h = kernels.silu_mul(linear(h, layer.gate_proj), linear(h, layer.up_proj))
        x = linear(h, layer.down_proj, x)
    return linear(kernels.rms_norm(x, model.norm, eps), model.lm_head)


class Steps:
    """The token at position ``length`` − 1 by different steps over one cache: logits (…, vocab_size)."""

    def __init__(self, model: LlamaModel, length: int) -> None:
        self.model, self.length = model, length
        self.cache = KVCache(model.config, 1, length, model.device, model.dtype)
        tokens = torch.arange(5, 5 + length, device=model.device) % model.config.vocab_size
        model.prefill(tokens, self.cache, 0)
        self.token = tokens[-1:]
        self.x = model.embed_tokens[self.token]
        self.decoder = TorchDecoder(model, length)
        self.decoder.keys.copy_(self.cache.keys), self.decoder.values.copy_(self.cache.values)
        self.position = torch.tensor([length - 1], device=model.device)

    def eager(self) -> torch.Tensor:
        return self.decoder(self.token, self.position)

    def apart(self) -> torch.Tensor:
        return apart(self.model, self.x, self.cache, self.length, matrix)

    def gemv(self) -> torch.Tensor:
        return apart(self.model, self.x, self.cache, self.length, gemv)

    def fused(self) -> torch.Tensor:
        return self.model.step(self.x, self.cache.keys, self.cache.values, self.cache.lengths)


def from_host(step: Step, calls: int = 10) -> float:
    """Seconds a step, launched kernel by kernel."""
    step(), step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls


def captured(step: Step) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # loads and compiles what must not be captured
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        step()
    return graph


def in_graph(step: Step, calls: int = 20) -> float:
    """Seconds a step as a CUDA graph, the median of nine times ``calls`` replays."""
    graph, times = captured(step), []
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    graph.replay()
    for _ in range(9):
        start.record()
        for _ in range(calls):
            graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times)


@torch.no_grad()
def measure(model: LlamaModel, length: int) -> dict[str, float]:
    """Seconds a token by step, in the order in which the ideas come.

    Raises AssertionError where a step's logits are further from float32's than eager torch's are.
    """
    steps = Steps(model, length)
    exact = steps.decoder(steps.token, steps.position, torch.float32)
    allowed = MARGIN * error(steps.eager(), exact)
    for step in (steps.apart, steps.gemv, steps.fused):
        off = error(step(), exact)
        assert off <= allowed, f"{step.__name__}: logits are {off:.2g} off, more than {allowed:.2g}"
    found = {"eager torch": from_host(steps.eager), "kernels of 02-08": from_host(steps.apart)}
    with without_pdl():
        found["in one CUDA graph"] = in_graph(steps.apart)
        found["GEMV"] = in_graph(steps.gemv)
        found["fused"] = in_graph(steps.fused)
    return found | {"PDL": in_graph(steps.fused)}


@torch.no_grad()
def kernel_times(model: LlamaModel, length: int, replays: int = 5) -> dict[str, tuple[int, float]]:
    """Launches and seconds a step by kernel. Without PDL, under which kernels overlap: the sum is more than a step."""
    steps = Steps(model, length)
    with without_pdl():
        graph = captured(steps.fused)
    graph.replay()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        for _ in range(replays):
            graph.replay()
        torch.cuda.synchronize()
    return {
        event.key: (event.count // replays, event.self_device_time_total / 1e6 / replays)
        for event in profile.key_averages()
        if event.self_device_time_total > 0
    }
