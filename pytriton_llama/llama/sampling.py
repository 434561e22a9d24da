"""From logits to the next token."""

from dataclasses import dataclass

import torch

from pytriton_llama.errors import LlamaError


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token; otherwise logits are divided by it.
        top_k: only the k likeliest tokens may be drawn (all of a tie at the last place).
        top_p: only the fewest likeliest tokens whose probabilities sum to at least this, in (0, 1].

    Raises:
        LlamaError: a value outside those ranges.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise LlamaError(f"temperature is {self.temperature}; it must be finite and at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise LlamaError(f"top_k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise LlamaError(f"top_p is {self.top_p}; it must be above 0 and at most 1")

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """float32 (..., vocab_size) from which tokens are drawn; needs a temperature above 0."""
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        probabilities = torch.softmax(logits, dim=-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            # A token stays while those before it have not yet reached top_p: the likeliest always does.
            before = ordered.cumsum(dim=-1) - ordered
            ordered = ordered.masked_fill(before >= self.top_p, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
            probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
        return probabilities

    def choose(self, logits: torch.Tensor, generators: list[torch.Generator]) -> list[int]:
        """The next token of each sequence, from logits (batch, vocab_size) and a CPU generator for each.

        Drawn on the CPU, so that a seed means the same on every device.
        """
        if self.temperature == 0:
            return logits.argmax(dim=-1).tolist()
        probabilities = self.probabilities(logits).cpu()
        return [
            int(torch.multinomial(row, 1, generator=generator))
            for row, generator in zip(probabilities, generators, strict=True)
        ]
