"""Text that grows token by token, and ends before a stop string however the tokens cut it."""

import random

import pytest

from pytriton_llama.llama.answer import Answer, Generation


class Pieces:
    """A decoder whose token ids are places in a list of texts; the last ``unfinished`` characters come at the end."""

    def __init__(self, pieces: list[str], unfinished: str = "") -> None:
        self.step, self.flush = pieces.__getitem__, lambda: unfinished


def cut(text: str, stop: list[str]) -> str:
    """The oracle, a character at a time: the text before the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def feed(pieces: list[str], stop: list[str], unfinished: str = "", eos: bool = False) -> tuple[Answer, list[str]]:
    """The answer, and what a stream would have shown after each token."""
    answer, shown = Answer(Pieces(pieces, unfinished), stop, logprobs=False), []
    for i in range(len(pieces)):
        answer.add(i, None, last=i == len(pieces) - 1 and not eos)
        shown.append("".join(answer.pieces))
        if answer.finish_reason:
            return answer, shown
    answer.end("stop")
    return answer, [*shown, "".join(answer.pieces)]


@pytest.mark.parametrize("seed", range(100))
def test_ends_before_the_first_stop_string(seed):
    """Random texts of two letters, cut anywhere. Catches a stop string that spans tokens, one shown in part, text held
    back for ever, a search that starts after an overlapping beginning, a later stop string that wins."""
    r = random.Random(seed)
    pieces = ["".join(r.choices("ab", k=r.randint(0, 3))) for _ in range(r.randint(1, 12))]
    stop = ["".join(r.choices("ab", k=r.randint(1, 6))) for _ in range(r.randint(0, 3))]
    unfinished = "".join(r.choices("ab", k=r.randint(0, 2)))
    answer, shown = feed(pieces, stop, unfinished, eos=r.random() < 0.5)
    expected = cut("".join(pieces) + unfinished, stop)
    assert answer.generation().text == "".join(answer.pieces) == expected
    assert all(expected.startswith(text) for text in shown)
    assert "" not in answer.pieces


def test_reasons_and_tokens():
    """Catches "length" for a text that a stop string ended with its last token, and tokens that go missing."""
    assert feed(["a", "bc", "d"], ["cd"])[0].generation() == Generation("ab", [0, 1, 2], "stop")
    assert feed(["a", "bc", "d"], ["x"])[0].generation() == Generation("abcd", [0, 1, 2], "length")
    assert feed(["a", "bc"], ["cd"], unfinished="d")[0].generation() == Generation("ab", [0, 1], "stop")
    assert feed(["a", "bc"], ["cd"], eos=True)[0].generation() == Generation("abc", [0, 1], "stop")
    assert feed(["a", "b", "c"], ["b"])[0].token_ids == [0, 1]


def test_the_stop_string_that_is_complete_first():
    """Catches the one that begins first, where one token completes both, and the first given of two that end together:
    the longest leaves nothing of either."""
    assert feed(["xabcd"], ["abcd", "bc"])[0].generation() == Generation("xa", [0], "stop")
    assert feed(["xabc"], ["bc", "abc"])[0].generation() == Generation("x", [0], "stop")


def test_text_is_shown_as_soon_as_it_can_be():
    """Catches a stream that holds everything back, or a fixed number of characters."""
    _, shown = feed(["one ", "two", "\n", "x", "\n", "\n"], ["\n\n"])
    assert shown == ["one ", "one two", "one two", "one two\nx", "one two\nx", "one two\nx"]


def test_jupyter_shows_the_text_as_it_is():
    """Catches a model's ``<script>`` that a notebook would run."""
    shown = Generation("<script>&\n*b*", [1, 2], "length")._repr_html_()
    assert "&lt;script&gt;&amp;\n*b*" in shown and "<script" not in shown
    assert "[1, 2]" in Generation(None, [1, 2], "stop")._repr_html_()
