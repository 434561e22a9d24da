"""Ctrl-C at a moment that leaves everything whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C within the block takes effect at its end; pressed again, at once.

    An interpreted kernel that is left half-way leaves counters behind that the next launch starts from.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # signals go to the main thread; what is no Python function interrupts none
        return
    pressed: list[tuple[int, FrameType | None]] = []

    def press(number: int, frame: FrameType | None) -> None:
        if pressed:
            before(number, frame)
        pressed.append((number, frame))

    signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        before(*pressed[0])
