"""Which tokens may follow, and how likely each is to be drawn. The draw itself is ``kernels.next_token``'s."""

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

    @property
    def restricts(self) -> bool:
        """Whether some tokens may not be drawn."""
        return self.temperature > 0 and (self.top_k is not None or (self.top_p is not None and self.top_p < 1))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """float32 (..., vocab_size) from which tokens are drawn; needs a temperature above 0."""
        rows = logits.reshape(-1, logits.shape[-1])
        temperature, top_k, top_p = (
            torch.full((len(rows),), value, device=rows.device)
            for value in (self.temperature, self.top_k or rows.shape[1], self.top_p or 1.0)
        )
        kept = restrict(rows.float(), temperature, top_k, top_p) if self.restricts else rows.float()
        return torch.softmax(kept / self.temperature, dim=-1).view_as(logits)


def restrict(logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """``logits`` (batch, vocab_size), −inf where top-k or top-p leave a token out; top-k comes first.

    The parameters are (batch,), ``top_k`` of integers: on the device, a CUDA graph can take new ones each time.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    last = ordered.gather(-1, (top_k.long() - 1).clamp(max=logits.shape[-1] - 1)[:, None])
    ordered = ordered.masked_fill(ordered < last, float("-inf"))
    probabilities = torch.softmax(ordered.float() / temperature[:, None], dim=-1)
    # A token stays while those before it have not yet reached top_p: the likeliest always does.
    before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill(before >= top_p[:, None], float("-inf"))
    return torch.empty_like(logits).scatter_(-1, order, ordered)
