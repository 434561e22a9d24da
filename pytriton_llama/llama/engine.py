"""Batches on their way through the model: prompts in, one token of each sequence a step.

On a GPU a step is one CUDA graph: embedding, layers, draw, lengths and stop flags. The host launches it and reads the
tokens that the step before has left in its memory; nothing that it decides lies on the way from one token to the next.
A prompt is one graph too, as soon as a second one of about its length comes along.
"""

from collections.abc import Generator

import torch

from pytriton_llama import kernels
from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.model import CHUNK, LlamaModel
from pytriton_llama.llama.sampling import Sampling, restrict

# Sequences no longer than this take another tile of flash_decoding, so that they have a graph of their own.
SHORT = 2048
SLOTS = 4  # steps whose tokens are kept for the host; it is never more than one behind


class Batch:
    """Room for ``size`` sequences of up to ``max_length`` tokens: all that a step reads and writes, and its graphs."""

    def __init__(self, model: LlamaModel, size: int, max_length: int, prompts: "Prompts | None") -> None:
        """``prompts``: None where nothing is to be captured."""
        self.model, self.size, self.prompts, self.graphs = model, size, prompts, prompts is not None
        device = model.device
        self.cache = KVCache(model.config, size, max_length, device, model.dtype)
        self.x = torch.zeros((size, model.config.hidden_size), dtype=model.dtype, device=device)

        def each(dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self.temperature, self.top_p = each(torch.float32), each(torch.float32)
        self.seeds, self.top_k = each(torch.int64), each(torch.int64)
        self.limits, self.running, self.steps = each(torch.int32), each(torch.int32), each(torch.int32)
        eos = model.config.eos_token_ids or (-1,)
        self.stop_tokens = torch.tensor(eos, dtype=torch.int32, device=device)
        # The draw writes straight into the host's memory: no copy, and nothing to wait for but the step itself.
        self.tokens = torch.zeros((SLOTS, size), dtype=torch.int32, pin_memory=device.type == "cuda")
        self._captured: dict[tuple[bool, bool], torch.cuda.CUDAGraph] = {}
        if self.graphs:
            self._stream = torch.cuda.Stream(device)
            self._done = [torch.cuda.Event() for _ in range(SLOTS)]

    @torch.no_grad()
    def start(self, prompts: list[list[int]], limits: list[int], sampling: Sampling, seed: int) -> None:
        """Prefill, and draw the first token of each prompt. ``limits``: the length at which a sequence must end."""
        count, device = len(prompts), self.model.device
        self.cache.lengths.zero_(), self.steps.zero_(), self.limits.zero_()
        self.temperature.fill_(sampling.temperature)
        self.top_k.fill_(sampling.top_k or self.model.config.vocab_size)
        self.top_p.fill_(sampling.top_p or 1.0)
        self.seeds.copy_(seed + torch.arange(self.size))
        self.limits[:count] = torch.tensor(limits, dtype=torch.int32)
        self.running.copy_(torch.arange(self.size) < count)
        logits = torch.zeros((self.size, self.model.config.vocab_size), dtype=self.model.dtype, device=device)
        for i, ids in enumerate(prompts):
            prefill = self.model.prefill if self.prompts is None else self.prompts.prefill
            logits[i] = prefill(torch.tensor(ids, device=device), self.cache, i)
        self._restricted = sampling.restricts
        self._longest = max(map(len, prompts))
        self._launched = 0
        self._draw(logits, self._restricted)
        self._launch_ends()

    def step(self) -> None:
        """One token more. The first step of a kind runs as it is, so that all of its kernels are loaded; then it is
        captured for the others."""
        self._longest = min(self._longest + 1, self.cache.max_length)
        kind = self._longest <= SHORT, self._restricted
        if kind in self._captured:
            self._captured[kind].replay()
        elif not self.graphs:
            self._step(*kind)
        else:
            # A stream has counters of its own (see kernels.arguments): those of the capture must exist before it.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._step(*kind)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                self._step(*kind)
            self._captured[kind] = graph
        self._launch_ends()

    def read(self, step: int) -> list[int]:
        """Step ``step``'s tokens, one a sequence, −1 where it had ended before."""
        if self.graphs:
            self._done[step % SLOTS].synchronize()
        elif self.tokens.is_pinned():
            torch.cuda.synchronize()
        return self.tokens[step % SLOTS].tolist()

    def _launch_ends(self) -> None:
        if self.graphs:
            self._done[self._launched % SLOTS].record()
        self._launched += 1

    @torch.no_grad()
    def _step(self, short: bool, restricted: bool) -> None:
        length = min(SHORT, self.cache.max_length) if short else self.cache.max_length
        keys, values = (t[:, :, :, :length] for t in (self.cache.keys, self.cache.values))
        self._draw(self.model.step(self.x, keys, values, self.cache.lengths), restricted)

    def _draw(self, logits: torch.Tensor, restricted: bool) -> None:
        if restricted:
            logits = restrict(logits, self.temperature, self.top_k, self.top_p)
        self.model.ops.next_token(
            logits, self.temperature, self.seeds, self.cache.lengths, self.limits, self.running, self.stop_tokens,
            self.tokens, self.steps, self.model.embed_tokens, self.x,
        )  # fmt: skip


class Prompts:
    """Prefill through CUDA graphs. A prompt is padded to one of few lengths, taken into a cache of its own, and copied
    from there to its place."""

    def __init__(self, model: LlamaModel) -> None:
        self.model, self._stream = model, torch.cuda.Stream(model.device)
        self._pool = torch.cuda.graph_pool_handle()  # one runs after the other: they may share their memory
        self._seen: set[int] = set()
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor, KVCache, torch.Tensor]] = {}

    def prefill(self, token_ids: torch.Tensor, cache: KVCache, sequence: int) -> torch.Tensor:
        """As the model's. The first prompt of a length is not worth capturing: there may be no second one."""
        length = token_ids.shape[0]
        padded = _padded(length)
        if padded > min(CHUNK, cache.max_length) or padded not in self._seen:
            self._seen.add(padded)
            return self.model.prefill(token_ids, cache, sequence)
        if padded not in self._captured:
            self._captured[padded] = self._capture(padded)
        graph, ids, last, own, logits = self._captured[padded]
        ids.fill_(0)[:length] = token_ids
        last.fill_(length - 1)
        graph.replay()
        cache.keys[:, sequence, :, :length] = own.keys[:, 0, :, :length]
        cache.values[:, sequence, :, :length] = own.values[:, 0, :, :length]
        cache.lengths[sequence] = length
        return logits

    def _capture(self, length: int):
        model, device = self.model, self.model.device
        ids, last = (torch.zeros(n, dtype=torch.int64, device=device) for n in (length, 1))
        own = KVCache(model.config, 1, length, device, model.dtype)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            model.prefill(ids, own, 0, last)  # loads what must not be loaded within the capture
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            logits = model.prefill(ids, own, 0, last)
        return graph, ids, last, own, logits


class Engine:
    """Runs requests, and keeps the room that they have had for the next ones.

    Attributes:
        graphs: whether steps are captured as CUDA graphs; by default where they can be.
    """

    def __init__(self, model: LlamaModel) -> None:
        self.model = model
        self.graphs = model.device.type == "cuda" and model.ops is kernels
        self._prompts: Prompts | None = None
        self._idle: dict[int, Batch] = {}

    def run(
        self, prompts: list[list[int]], limits: list[int], sampling: Sampling, seed: int
    ) -> Generator[list[int], None, None]:
        """Each step's tokens, one a prompt, −1 where it had ended before, until all must have reached their limit; who
        has enough before that closes the iterator.

        Args:
            prompts: token ids, at least one prompt.
            limits: for each, the length at which it must end: prompt and new tokens, but the last.
            sampling: how tokens are drawn; prompt i draws with seed ``seed + i``.
        """
        batch = self._take(len(prompts), max(*limits, *map(len, prompts)))
        try:
            batch.start(prompts, limits, sampling, seed)
            most = 1 + max(limit - len(ids) for limit, ids in zip(limits, prompts, strict=True))
            for step in range(most):
                # A GPU goes on while the host reads; if all end before their limit, that one step is in vain.
                if batch.graphs and step + 1 < most:
                    batch.step()
                yield batch.read(step)[: len(prompts)]
                if not batch.graphs and step + 1 < most:
                    batch.step()
        finally:
            self._idle[batch.size] = batch

    def release(self) -> None:
        """Give back the memory of idle rooms: caches are large."""
        self._idle.clear()

    def _take(self, count: int, length: int) -> Batch:
        size, length = _power_of_two(count), min(_power_of_two(length), self.model.config.max_position_embeddings)
        batch = self._idle.pop(size, None)
        if batch is None or batch.cache.max_length < length or batch.graphs != self.graphs:
            batch = None  # before there is another one: a cache may be most of the memory
            if self.graphs and self._prompts is None:
                self._prompts = Prompts(self.model)
            batch = Batch(self.model, size, length, self._prompts if self.graphs else None)
        return batch


def _padded(length: int) -> int:
    """At least 64, and a multiple of an eighth of the power of two above: an eighth of the work at most is in vain."""
    step = max(64, _power_of_two(length) // 8)
    return -(-length // step) * step


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
