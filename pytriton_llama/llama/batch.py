"""A batch of sequences and one step of it: one token more for each.

On a GPU a step is one CUDA graph: embedding, layers, draw, lengths and stop flags. The host launches it and reads the
tokens that the step before has left in its memory; nothing that it decides lies on the way from one token to the next.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.model import LlamaModel
from pytriton_llama.llama.prompts import Prompts
from pytriton_llama.llama.sampling import Sampling, penalize, restrict

# Sequences no longer than this take another tile of flash_decoding, so that they have a graph of their own.
SHORT = 2048
SLOTS = 4  # steps whose tokens are kept for the host; it is never more than one behind


class Kind(NamedTuple):
    """What a step does: each kind has a graph of its own, so that nobody pays for what others ask for."""

    short: bool
    restricted: bool
    penalized: bool
    logprobs: bool

    @property
    def needs_tokens(self) -> bool:
        return self.penalized or self.logprobs


class Batch:
    """Room for ``size`` sequences of up to ``max_length`` tokens: all that a step reads and writes, and its graphs."""

    def __init__(self, model: LlamaModel, size: int, max_length: int, prompts: Prompts | None) -> None:
        """``prompts``: None where nothing is to be captured."""
        self.model, self.size, self.prompts, self.graphs = model, size, prompts, prompts is not None
        device = model.device
        self.cache = KVCache(model.config, size, max_length, device, model.dtype)
        self.x = torch.zeros((size, model.config.hidden_size), dtype=model.dtype, device=device)

        def each(dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self.temperature, self.top_p, self.min_p = each(torch.float32), each(torch.float32), each(torch.float32)
        self.repetition_penalty = each(torch.float32)
        self.seeds, self.top_k = each(torch.int64), each(torch.int64)
        self.limits, self.running, self.steps = each(torch.int32), each(torch.int32), each(torch.int32)
        self.eos = torch.tensor(model.config.eos_token_ids or (-1,), dtype=torch.int32, device=device)
        self.stop_tokens = self.eos.clone()
        self.seen = torch.zeros((size, model.config.vocab_size), dtype=torch.bool, device=device)
        # The draw writes straight into the host's memory: no copy, and nothing to wait for but the step itself.
        pinned = device.type == "cuda"
        self.tokens = torch.zeros((SLOTS, size), dtype=torch.int32, pin_memory=pinned)
        self.logprobs = torch.zeros((SLOTS, size), pin_memory=pinned)
        # Where the step itself needs to know what was drawn, it writes here, and the host gets a copy.
        self.own_tokens = torch.zeros_like(self.tokens, device=device)
        self.own_logprobs = torch.zeros_like(self.logprobs, device=device)
        self._captured: dict[Kind, torch.cuda.CUDAGraph] = {}
        if self.graphs:
            self._stream = torch.cuda.Stream(device)
            self._done = [torch.cuda.Event() for _ in range(SLOTS)]

    @torch.no_grad()
    def start(
        self, prompts: list[list[int]], limits: list[int], sampling: Sampling, seed: int, eos: bool, logprobs: bool
    ) -> None:
        """Prefill, and draw the first token of each prompt; arguments as :meth:`Engine.run`'s."""
        count, device = len(prompts), self.model.device
        self.cache.lengths.zero_(), self.steps.zero_(), self.limits.zero_()
        self.temperature.fill_(sampling.temperature)
        self.top_k.fill_(sampling.top_k or self.model.config.vocab_size)
        self.top_p.fill_(sampling.top_p or 1.0)
        self.min_p.fill_(sampling.min_p or 0.0)
        self.stop_tokens.copy_(self.eos if eos else torch.full_like(self.eos, -1))
        self.seeds.copy_(seed + torch.arange(self.size))
        self.limits[:count] = torch.tensor(limits, dtype=torch.int32)
        self.running.copy_(torch.arange(self.size) < count)
        logits = torch.zeros((self.size, self.model.config.vocab_size), dtype=self.model.dtype, device=device)
        for i, ids in enumerate(prompts):
            prefill = self.model.prefill if self.prompts is None else self.prompts.prefill
            logits[i] = prefill(torch.tensor(ids, device=device), self.cache, i)
        if sampling.penalizes:
            self.repetition_penalty.fill_(sampling.repetition_penalty or 1.0)
            self.seen.zero_()
            for i, ids in enumerate(prompts):
                self.seen[i].index_fill_(0, torch.tensor(ids, device=device), True)
        self._longest = max(map(len, prompts))
        self._kind = Kind(self._longest <= SHORT, sampling.restricts, sampling.penalizes, logprobs)
        self._launched = 0
        self._draw(logits, self._kind)
        self._launch_ends()

    def step(self) -> None:
        """One token more. The first step of a kind runs as it is, so that all of its kernels are loaded; then it is
        captured for the others."""
        self._longest = min(self._longest + 1, self.cache.max_length)
        kind = self._kind = self._kind._replace(short=self._longest <= SHORT)
        if kind in self._captured:
            self._captured[kind].replay()
        elif not self.graphs:
            self._step(kind)
        else:
            # A stream has counters of its own (see kernels.arguments): those of the capture must exist before it.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._step(kind)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                self._step(kind)
            self._captured[kind] = graph
        self._launch_ends()

    def read(self, step: int) -> tuple[list[int], list[float] | None]:
        """Step ``step``'s tokens, one a sequence, −1 where it had ended before, and their log-probabilities."""
        if self.graphs:
            self._done[step % SLOTS].synchronize()
        elif self.tokens.is_pinned():
            torch.cuda.synchronize()
        row = step % SLOTS
        return self.tokens[row].tolist(), self.logprobs[row].tolist() if self._kind.logprobs else None

    def _launch_ends(self) -> None:
        if self._kind.needs_tokens:  # all rows: which one is new, only the device knows; the others do not change
            self.tokens.copy_(self.own_tokens, non_blocking=True)
            self.logprobs.copy_(self.own_logprobs, non_blocking=True)
        if self.graphs:
            self._done[self._launched % SLOTS].record()
        self._launched += 1

    @torch.no_grad()
    def _step(self, kind: Kind) -> None:
        length = min(SHORT, self.cache.max_length) if kind.short else self.cache.max_length
        keys, values = (t[:, :, :, :length] for t in (self.cache.keys, self.cache.values))
        self._draw(self.model.step(self.x, keys, values, self.cache.lengths), kind)

    def _draw(self, logits: torch.Tensor, kind: Kind) -> None:
        scores = penalize(logits, self.seen, self.repetition_penalty) if kind.penalized else logits
        if kind.restricted:
            scores = restrict(scores, self.temperature, self.top_k, self.top_p, self.min_p)
        self.model.ops.next_token(
            scores, self.temperature, self.seeds, self.cache.lengths, self.limits, self.running, self.stop_tokens,
            self.own_tokens if kind.needs_tokens else self.tokens, self.steps, self.model.embed_tokens, self.x,
        )  # fmt: skip
        if kind.needs_tokens:
            self._heed_tokens(logits, kind)

    def _heed_tokens(self, logits: torch.Tensor, kind: Kind) -> None:
        """Note what was drawn as seen, and how likely the model's own distribution had it."""
        row = (self.steps[:1].long() - 1) % SLOTS
        # A sequence that has ended draws −1: for it anything may be noted, nobody looks.
        drawn = self.own_tokens.index_select(0, row).long().clamp(min=0).T  # (size, 1)
        if kind.penalized:
            self.seen.scatter_(1, drawn, True)
        if kind.logprobs:
            found = torch.log_softmax(logits.float(), dim=-1).gather(1, drawn)
            self.own_logprobs.index_copy_(0, row, found.T)
