"""Answers while they are made: in a loop, in an event loop, given up half-way."""

import asyncio
import gc
import threading

import pytest

from pytriton_llama import Llama
from pytriton_llama.errors import LlamaError
from pytriton_llama.llama.answer import Answer
from pytriton_llama.llama.stream import Stream, in_thread
from tests.llama.tiny import TINY

OPTIONS = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}


@pytest.fixture(scope="module")
def llama() -> Llama:
    return Llama.from_config(TINY, dtype="float32")


@pytest.fixture(scope="module")
def expected(llama) -> list[int]:
    return llama.generate([5, 6], **OPTIONS).token_ids


def test_ways_to_give_up(llama, expected):
    """Catches a room that is lost with a stream that nobody finished: each time there would be one cache more."""
    llama.engine.release()

    def closed():
        stream = llama.stream([5, 6], **OPTIONS)
        next(stream)
        stream.close()
        assert list(stream) == [] and stream.finish_reason is None

    def left():
        with llama.stream([5, 6], **OPTIONS) as stream:
            next(stream)
        assert list(stream) == []

    def forgotten():
        for _ in llama.stream([5, 6], **OPTIONS):
            break

    def interrupted():
        with pytest.raises(KeyboardInterrupt):
            for _ in llama.stream([5, 6], **OPTIONS):
                raise KeyboardInterrupt

    gc.disable()  # nothing may hang on a cycle
    try:
        rooms = []
        for give_up in (closed, left, forgotten, interrupted) * 2:
            give_up()
            rooms += llama.engine._idle.values()
            assert list(llama.stream([5, 6], **OPTIONS)) == expected
        assert len(set(map(id, rooms))) == 1
    finally:
        gc.enable()


def test_several_pieces_of_one_step():
    """As where an answer's end gives up what was held back. Catches the last piece for each, one that comes after
    ``close``, and token 0 taken for the end."""

    def stream() -> Stream:
        answer = Answer(None, (), logprobs=False)

        def steps():
            answer.token_ids.extend([5, 0, 6])
            yield

        return Stream(steps(), answer, as_text=False)

    async def collect() -> list[int]:
        return [piece async for piece in in_thread(stream())]

    assert list(stream()) == asyncio.run(collect()) == [5, 0, 6]
    with stream() as closed:
        assert next(closed) == 5
    assert list(closed) == []


def test_bad_options_are_named_before_the_first_piece(llama):
    """Catches an error that comes only when somebody asks for text, and an option that is ignored."""
    for start in (llama.stream, llama.astream):
        with pytest.raises(LlamaError, match="top_k"):
            start([5, 6], top_k=0)
        with pytest.raises(LlamaError, match="no tokenizer"):
            start([5, 6], stop=["x"])
        with pytest.raises(TypeError, match="beams"):
            start([5, 6], beams=3)


def test_logprobs_of_a_stream(llama):
    """Catches log-probabilities that only a finished generation has."""
    whole = llama.generate([5, 6], logprobs=True, **OPTIONS)
    stream = llama.stream([5, 6], logprobs=True, **OPTIONS)
    next(stream)
    assert stream.logprobs == whole.logprobs[:1]
    list(stream)
    assert (stream.logprobs, stream.finish_reason) == (whole.logprobs, "length")
    assert llama.stream([5, 6]).logprobs is None


def test_async_streams_side_by_side(llama, expected):
    """Catches an event loop that waits for a step, tokens that get into another's stream, and a last piece lost."""

    async def collect(seed: int) -> list[int]:
        return [piece async for piece in llama.astream([5, 6], **OPTIONS | {"seed": seed})]

    async def main():
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        heart = asyncio.create_task(beat())
        found = await asyncio.gather(*map(collect, (4, 5, 6)))
        heart.cancel()
        return found, beats

    found, beats = asyncio.run(main())
    assert found[0] == expected
    assert found[1:] == [llama.generate([5, 6], **OPTIONS | {"seed": seed}).token_ids for seed in (5, 6)]
    assert beats > 100


def test_cancelling_ends_the_request(llama, expected):
    """Catches a worker thread that goes on after its task has ended, beside the next request in the same room."""
    llama.engine.release()

    async def main():
        first = asyncio.Event()
        made = []

        async def consume():
            async for piece in llama.astream([5, 6], max_new_tokens=100):
                made.append(piece)
                first.set()

        task = asyncio.create_task(consume())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rooms = len(llama.engine._idle)  # given back already
        count = len(made)
        again = [piece async for piece in llama.astream([5, 6], **OPTIONS)]
        return rooms, again, len(made) == count < 100

    assert asyncio.run(main()) == (1, expected, True)


def test_cancelling_waits_for_the_step_under_way():
    """Catches a request that is closed while its worker thread is at work in it."""
    begun, go_on = threading.Event(), threading.Event()
    answer = Answer(None, (), logprobs=False)

    def steps():
        begun.set()
        go_on.wait()
        answer.token_ids.append(5)
        yield

    async def consume():
        return [piece async for piece in in_thread(Stream(steps(), answer, as_text=False))]

    async def main():
        task = asyncio.create_task(consume())
        try:
            await asyncio.to_thread(begun.wait)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=0.1)
        finally:
            go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return done

    assert asyncio.run(main()) == set()


def test_an_error_reaches_the_event_loop(llama, monkeypatch):
    """Catches an exception that stays in the worker thread, where an empty answer would be all there is to see."""
    from pytriton_llama.llama import memory

    llama.engine.release()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)

    async def main():
        return [piece async for piece in llama.astream([5, 6])]

    with pytest.raises(LlamaError, match="does not fit"):
        asyncio.run(main())
