"""An answer that grows token by token, and what it is when it is finished."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from pytriton_llama.llama import tokenizer


@dataclass(frozen=True)
class Generation:
    """A finished answer.

    Attributes:
        text: ``token_ids`` decoded, without control tokens, up to the first stop string; None where the model has no
            tokenizer.
        token_ids: the new tokens, without the one that ended the text; those that spell a stop string are among them.
        finish_reason: "stop" (the model ended its text, or came to a stop string) or "length" (``max_new_tokens``, or
            the context is full).
        logprobs: each new token's natural log-probability in the model's own distribution, before penalty, temperature
            and restrictions; None where they were not asked for.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: str
    logprobs: list[float] | None = None

    def _repr_html_(self) -> str:
        """What Jupyter shows: the text as it is, whatever the model has written."""
        shown = html.escape(str(self.token_ids) if self.text is None else self.text)
        note = f"{len(self.token_ids)} tokens, {self.finish_reason}"
        return f'<div style="white-space: pre-wrap">{shown}</div><small>{note}</small>'


class Answer:
    """What has been made for one prompt so far.

    Attributes:
        token_ids: the new tokens, without the end-of-text token.
        logprobs: one float a token; None where they were not asked for.
        pieces: the text, where there is a tokenizer: whole characters, nothing of a stop string.
        finish_reason: None until the answer has ended.
    """

    def __init__(self, decoder: tokenizer.Stream | None, stop: Sequence[str], logprobs: bool) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[float] | None = [] if logprobs else None
        self.pieces: list[str] = []
        self.finish_reason: str | None = None
        self._decoder, self._stop = decoder, stop
        self._held = ""  # may be the beginning of a stop string

    def add(self, token_id: int, logprob: float | None, last: bool) -> None:
        """One token more; ``last``: there is no room for another."""
        self.token_ids.append(token_id)
        if self.logprobs is not None and logprob is not None:
            self.logprobs.append(logprob)
        if self._decoder is not None:
            self._give(self._decoder.step(token_id))
        if last and not self.finish_reason:
            self.end("length")

    def end(self, finish_reason: str) -> None:
        """What was held back is text after all, unless its end completes a stop string."""
        if self._decoder is not None:
            self._give(self._decoder.flush())
        if not self.finish_reason:
            self.finish_reason = finish_reason
            if self._held:
                self.pieces.append(self._held)

    def generation(self) -> Generation:
        text = None if self._decoder is None else "".join(self.pieces)
        return Generation(text, self.token_ids, self.finish_reason or "", self.logprobs)

    def _give(self, piece: str) -> None:
        text = self._held + piece
        # The one that was complete first, however the tokens cut the text; of those that end together, the longest.
        found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            self.finish_reason = "stop"
            given = min(found)[1]
        else:
            given = len(text) - _beginning(text, self._stop)
        self._held = text[given:]
        if given:
            self.pieces.append(text[:given])


def _beginning(text: str, stop: Sequence[str]) -> int:
    """The length of the longest end of ``text`` that a stop string could begin with."""
    longest = min(len(text), max(map(len, stop), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stop)), 0)
