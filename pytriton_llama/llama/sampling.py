"""Which tokens may follow, and how likely each is to be drawn. The draw itself is ``kernels.next_token``'s."""

from collections.abc import Sequence
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
        min_p: only tokens at least this times as probable as the likeliest, in [0, 1].
        repetition_penalty: logits of tokens that the prompt or the answer has had are divided by this where they are
            positive, else multiplied (CTRL, arXiv:1909.05858); greedy choice heeds it too.

    They apply in transformers' order: repetition penalty, temperature, top-k, top-p, min-p.

    Raises:
        LlamaError: a value outside those ranges.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise LlamaError(f"temperature is {self.temperature}; it must be finite and at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise LlamaError(f"top_k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise LlamaError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise LlamaError(f"min_p is {self.min_p}; it must be at least 0 and at most 1")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < float("inf"):
            raise LlamaError(f"repetition_penalty is {self.repetition_penalty}; it must be finite and above 0")

    @property
    def restricts(self) -> bool:
        """Whether some tokens may not be drawn."""
        return self.temperature > 0 and bool(self.top_k is not None or (self.top_p or 1) < 1 or self.min_p)

    @property
    def penalizes(self) -> bool:
        """Whether it matters which tokens there have been."""
        return self.repetition_penalty not in (None, 1)

    def probabilities(self, logits: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """float32 (..., vocab_size) from which tokens are drawn; needs a temperature above 0.

        ``seen``: bool, of the same shape: which tokens there have been; None: none.
        """
        rows = logits.reshape(-1, logits.shape[-1]).float()

        def each(value: float) -> torch.Tensor:
            return torch.full((len(rows),), value, device=rows.device)

        if self.penalizes and seen is not None:
            rows = penalize(rows, seen.reshape(rows.shape), each(self.repetition_penalty or 1.0))
        if self.restricts:
            top_k = each(self.top_k or rows.shape[1])
            rows = restrict(rows, each(self.temperature), top_k, each(self.top_p or 1.0), each(self.min_p or 0.0))
        return torch.softmax(rows / self.temperature, dim=-1).view_as(logits)


@dataclass(frozen=True)
class Options(Sampling):
    """Everything that may be said about a request.

    Attributes:
        max_new_tokens: at least 1.
        stop: None, at the checkpoint's end-of-text tokens; a string or several, before the first of them that is
            complete, too; an empty list, at nothing.
        seed: of the draws, from 0 to 2⁶³ − 1.
        logprobs: whether the tokens' log-probabilities are wanted.

    Raises:
        LlamaError: a value outside its range.
    """

    max_new_tokens: int = 256
    stop: str | Sequence[str] | None = None
    seed: int = 0
    logprobs: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_new_tokens < 1:
            raise LlamaError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not all(isinstance(s, str) and s for s in self.stop_strings):
            raise LlamaError(f"stop is {self.stop!r}; it must be None or strings that are not empty")
        if not 0 <= self.seed < 2**63:
            raise LlamaError(f"seed is {self.seed}; it must be from 0 to 2**63 - 1")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def eos(self) -> bool:
        """Whether end-of-text tokens end the text."""
        return self.stop is None or bool(self.stop_strings)


def penalize(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """``logits`` (batch, vocab_size) with those of ``seen`` tokens, bool of the same shape, made less likely by
    ``penalty`` (batch,)."""
    exact, penalty = logits.float(), penalty[:, None]
    return torch.where(seen, torch.where(exact > 0, exact / penalty, exact * penalty), exact).to(logits.dtype)


def restrict(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
) -> torch.Tensor:
    """``logits`` (batch, vocab_size), −inf where top-k, top-p or min-p leave a token out; they come in this order.

    The parameters are (batch,), ``top_k`` of integers: on the device, a CUDA graph can take new ones each time.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    last = ordered.gather(-1, (top_k.long() - 1).clamp(max=logits.shape[-1] - 1)[:, None])
    ordered = ordered.masked_fill(ordered < last, float("-inf"))
    probabilities = torch.softmax(ordered.float() / temperature[:, None], dim=-1)
    # A token stays while those before it have not yet reached top_p: the likeliest always does.
    before = probabilities.cumsum(dim=-1) - probabilities
    left_out = before >= top_p[:, None]
    # Relative to the likeliest, it does not matter that top-p's loss has not been made up for.
    left_out |= probabilities < min_p[:, None] * probabilities[:, :1]
    ordered = ordered.masked_fill(left_out, float("-inf"))
    return torch.empty_like(logits).scatter_(-1, order, ordered)
