"""Requests on their way through the model: prompts in, the tokens of each step out, in rooms that are kept."""

import contextlib
import threading
from collections.abc import Generator, Iterator

import torch

from pytriton_llama import kernels
from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import memory
from pytriton_llama.llama.batch import Batch
from pytriton_llama.llama.interrupts import held_back
from pytriton_llama.llama.model import LlamaModel
from pytriton_llama.llama.prompts import Prompts, power_of_two
from pytriton_llama.llama.sampling import Sampling


class Engine:
    """Runs requests, and keeps the room that they have had for the next ones.

    Attributes:
        graphs: whether steps are captured as CUDA graphs; by default where they can be.
    """

    def __init__(self, model: LlamaModel) -> None:
        self.model = model
        self.graphs = model.device.type == "cuda" and model.ops is kernels
        self._prompts: Prompts | None = None
        self._lock = threading.Lock()
        self._idle: dict[int, Batch] = {}

    def run(
        self,
        prompts: list[list[int]],
        limits: list[int],
        sampling: Sampling,
        seed: int,
        eos: bool = True,
        logprobs: bool = False,
    ) -> Generator[tuple[list[int], list[float] | None], None, None]:
        """Each step's tokens, one a prompt, −1 where it had ended before, until all must have reached their limit; who
        has enough before that closes the iterator. Beside them their log-probabilities, if wanted.

        Args:
            prompts: token ids, at least one prompt.
            limits: for each, the length at which it must end: prompt and new tokens, but the last.
            sampling: how tokens are drawn; prompt i draws with seed ``seed + i``.
            eos: whether the config's end-of-text tokens end a sequence.
            logprobs: whether to tell each token's natural log-probability in the model's own distribution, before
                penalty, temperature and restrictions.

        Raises:
            LlamaError: there is not enough memory; what other requests have is left to them.
        """
        with self._turn():
            batch = self._take(len(prompts), max(*limits, *map(len, prompts)))
            batch.start(prompts, limits, sampling, seed, eos, logprobs)
        most = 1 + max(limit - len(ids) for limit, ids in zip(limits, prompts, strict=True))
        # A GPU goes on while the host reads; if all end before their limit, that one step is in vain.
        ahead = int(batch.graphs)
        try:
            for step in range(most):
                with self._turn():
                    if 0 < step + ahead < most:
                        batch.step()
                    tokens, likely = batch.read(step)
                yield tokens[: len(prompts)], likely
        except GeneratorExit:
            self._idle[batch.size] = batch
            raise
        self._idle[batch.size] = batch  # not after an error, which may have come half-way through a capture

    def release(self) -> None:
        """Give back the memory of idle rooms: caches are large."""
        self._idle.clear()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One thread at a time: the interpreter and a capture want the process for themselves."""
        try:
            with self._lock, held_back():
                yield
        except torch.OutOfMemoryError as error:
            self.release()
            raise LlamaError(f"the GPU's memory is full: {str(error).splitlines()[0]}") from error

    def _take(self, count: int, length: int) -> Batch:
        size = power_of_two(count)
        batch = self._idle.pop(size, None)
        if batch is None or batch.cache.max_length < length or batch.graphs != self.graphs:
            batch = None  # before there is another one: a cache may be most of the memory
            if self.graphs and self._prompts is None:
                self._prompts = Prompts(self.model)
            batch = self._reserve(count, length)
        return batch

    def _reserve(self, count: int, length: int) -> Batch:
        """Room, rounded up for requests to come while there is memory for that."""
        config = self.model.config
        rounded = power_of_two(count), min(power_of_two(length), config.max_position_embeddings)
        for size, max_length in (rounded, (count, length)):
            fits = memory.free_bytes(self.model.device) // (size * memory.bytes_per_token(config, self.model.dtype))
            if max_length <= fits:
                return Batch(self.model, size, max_length, self._prompts if self.graphs else None)
            self.release()
        raise LlamaError(
            f"the KV cache of {count} × {length} tokens (prompts and max_new_tokens) does not fit in the free memory; "
            f"{count} × {fits} would"
        )
