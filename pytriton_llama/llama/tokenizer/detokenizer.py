"""Text from ids that come one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence


class Stream:
    """Decodes a window that starts at the text given out last, so that a token's neighbours are seen.

    ``decode`` is the tokenizer's. ``skipped`` are ids without text; ``runs`` those of single bytes (``<0xE4>``)
    where ``decode`` takes a run of them as a whole, so that only its end tells its text.
    """

    def __init__(self, decode: Callable[[list[int]], str], skipped: Collection[int], runs: Collection[int] = ()):
        self._decode, self._skipped, self._runs = decode, skipped, runs
        self._window: list[int] = []
        self._given = 0  # ids at the window's start whose text has been given out

    def after(self, ids: Sequence[int]) -> Stream:
        """Go on where ``ids`` end: at a text's very beginning, SentencePiece leaves a word's space out. What follows a
        control token, of which ``decode`` sees nothing, begins a text."""
        self._window = list(ids[-1:])
        self._given = len(self._window)
        return self

    def step(self, token_id: int) -> str:
        """The text that this token completes: nothing while inside a UTF-8 character."""
        if token_id in self._skipped:
            return ""
        self._window.append(token_id)
        text = self.flush()
        if not text or text.endswith("\ufffd") or token_id in self._runs:
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return text

    def flush(self) -> str:
        """What is left at the end. All pieces joined are ``decode`` of all ids, or what they add to those before."""
        before = self._decode(self._window[: self._given])
        return self._decode(self._window)[len(before) :]
