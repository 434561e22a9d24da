"""Prompts through CUDA graphs: one for each of few lengths, once a second prompt of about that length comes along."""

import torch

from pytriton_llama.llama.cache import KVCache
from pytriton_llama.llama.model import CHUNK, LlamaModel


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


def _padded(length: int) -> int:
    """At least 64, and a multiple of an eighth of the power of two above: beyond 256, a fifth of the work at most is in
    vain."""
    step = max(64, power_of_two(length) // 8)
    return -(-length // step) * step


def power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
