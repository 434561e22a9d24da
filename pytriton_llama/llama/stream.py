"""Iterators that hand out an answer while it is made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import Any

from pytriton_llama.llama.answer import Answer


class Stream(Iterator[Any]):
    """Pieces of text as they are made; joined they are the text. Token ids where the model has no tokenizer.

    ``close()`` ends it early, as does leaving a ``with`` block.
    """

    def __init__(self, steps: Generator[None, None, None], answer: Answer, as_text: bool) -> None:
        self._steps, self._answer = steps, answer
        self._made: Sequence[str | int] = answer.pieces if as_text else answer.token_ids
        self._given = 0

    @property
    def token_ids(self) -> list[int]:
        """The tokens made so far."""
        return self._answer.token_ids

    @property
    def logprobs(self) -> list[float] | None:
        """Of the tokens made so far; None where they were not asked for."""
        return self._answer.logprobs

    @property
    def finish_reason(self) -> str | None:
        """None until the stream has ended, then as :class:`~pytriton_llama.llama.answer.Generation`'s."""
        return self._answer.finish_reason

    def __next__(self) -> str | int:
        while self._given == len(self._made):
            next(self._steps)
        self._given += 1
        return self._made[self._given - 1]

    def close(self) -> None:
        self._steps.close()
        self._given = len(self._made)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_) -> None:
        self.close()


async def in_thread(stream: Stream) -> AsyncIterator[Any]:
    """The stream's pieces, made in a worker thread. Cancellation ends the request once the step under way is done."""
    with stream:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, stream, None))
            try:
                piece = await asyncio.shield(step)
            except asyncio.CancelledError:
                while not step.done():  # two threads must not hold one request
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([step])
                raise
            if piece is None:
                return
            yield piece
