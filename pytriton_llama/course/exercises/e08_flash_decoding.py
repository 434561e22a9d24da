"""Checkers of notebook 08's exercises."""

from collections.abc import Callable, Iterator

import torch

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw, device

PAGE = 16


def tiles_with_keys(length: int, sinks: int, window: int, BLOCK_N: int) -> list[int]:
    """From the rule itself, key by key."""
    return sorted({j // BLOCK_N * BLOCK_N for j in range(length) if j < sinks or j >= length - window})


@exercise("08.a", "sinks and a window")
def seen_tiles(answer: Answer) -> Iterator[tuple[bool, str]]:
    """Which tiles have to be read."""

    def right(hint: str, *cases: tuple[int, ...]) -> tuple[bool, str]:
        for case in cases:
            got = list(answer(*case))
            if got != tiles_with_keys(*case):
                return False, f"{hint}; (length, sinks, window, BLOCK_N) = {case}: not {got}"
        return True, ""

    yield right("no sinks: the window alone", (64, 0, 16, 16), (60, 0, 20, 16))
    yield right("sinks of whole tiles, far from the window", (128, 16, 16, 16), (128, 32, 16, 16))
    yield right("sinks that end within a tile", (128, 4, 16, 16), (128, 17, 16, 16))
    yield right("sinks that reach into the window's tiles: each tile once", (64, 40, 16, 16), (64, 20, 40, 16))
    yield right("a window longer than the text", (30, 4, 100, 16))
    yield right("a text shorter than its sinks: no tile without a key", (10, 40, 4, 16), (20, 64, 1, 16), (0, 4, 8, 16))
    yield right(
        "any shape",
        *(
            (length, sinks, window, BLOCK_N)
            for length in (0, 1, 16, 33, 100)
            for sinks in (0, 1, 16, 50, 200)
            for window in (1, 16, 30, 99, 200)
            for BLOCK_N in (16, 32)
        ),
    )


def paged_oracle(
    q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """In float64, every sequence's pages laid one after the other."""
    o = []
    for query, row, length in zip(q.double(), table.tolist(), lengths.tolist(), strict=True):
        pages = [page for page in row if page >= 0]
        k, v = (t[pages].double().flatten(0, 1)[:length] for t in (k_pages, v_pages))
        o.append(torch.softmax(query @ k.T * q.shape[2] ** -0.5, -1) @ v)
    return torch.stack(o)


def paged_case(draw: Draw, rows: list[list[int]], lengths: list[int], group: int, head_dim: int) -> tuple:
    """Pages as the rows say; NaN where no sequence has a key."""
    width, count = max(map(len, rows)), 1 + max(map(max, rows))
    pages = [torch.full((count, PAGE, head_dim), float("nan"), device=device) for _ in range(2)]
    for row, length in zip(rows, lengths, strict=True):
        for i, page in enumerate(row):
            keys = min(PAGE, length - i * PAGE)
            for t in pages:
                t[page, :keys] = draw(keys, head_dim)
    table = torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int32, device=device)
    q = draw(len(rows), group, head_dim)
    return q, *pages, table, torch.tensor(lengths, dtype=torch.int32, device=device)


@exercise("08.b", "a cache in pages")
def paged(answer: Answer) -> Iterator[tuple[bool, str]]:
    """A block table between position and memory."""
    draw = Draw(10)

    def right(given: tuple) -> bool:
        return agrees(watched(answer, *given), paged_oracle(*given))

    given = paged_case(draw, [[0]], [16], 4, 16)
    got = watched(answer, *given)
    yield got.shape == given[0].shape and got.dtype == torch.float32, "o is like q"
    yield agrees(got, paged_oracle(*given)), "one full page"
    yield right(paged_case(draw, [[0, 1, 2]], [48], 4, 16)), "three full pages, in order"
    yield right(paged_case(draw, [[4, 0, 2]], [48], 4, 16)), "pages 4, 0 and 2: the table says which are the sequence's"
    yield right(paged_case(draw, [[1, 0]], [21], 4, 16)), "the last page has 5 keys, then NaN"
    yield right(paged_case(draw, [[1, 3], [2, 0]], [32, 32], 4, 16)), "two sequences: each has its row of the table"
    yield right(paged_case(draw, [[3], [0, 4, 1], [2]], [3, 48, 16], 4, 16)), "lengths of their own; −1 is no page"
    yield right(paged_case(draw, [[3, 1], [0, 4, 2]], [20, 47], 9, 32)), "9 queries, head_dim 32"


Cut = list[tuple[int, int, int]]
PIECES, STEP, MIN_STEPS = 4, 16, 2


def cut(
    lengths: list[int],
    steps_of: Callable[[int], int] = lambda n: -(-n // STEP),
    least: int = 1,
    overlap: int = 0,
    programs: int | None = None,
    clip: bool = True,
    own_first: bool = True,
) -> Cut:
    """The notebook's pieces of one size, (sequence, start, stop) each; other arguments plant a bug."""
    size = max(-(-sum(map(steps_of, lengths)) // PIECES), MIN_STEPS)
    found: Cut = []
    for b, n in enumerate(lengths):
        first = len(found) if own_first else 0
        for _ in range(max(-(-steps_of(n) // size), least)):
            start = (len(found) - first) * size * STEP
            stop = start + size * STEP + overlap
            found.append((b, start, min(stop, n) if clip else stop))
    return found[:programs]


def faultless(found: Cut, lengths: list[int]) -> bool:
    """Every sequence has a piece, and every key is in one piece."""
    for b, n in enumerate(lengths):
        mine = [(start, stop) for sequence, start, stop in found if sequence == b]
        if not mine or sorted(j for start, stop in mine for j in range(start, stop)) != list(range(n)):
            return False
    return True


COLLEAGUES: dict[str, dict] = {
    "reads past a length: its last stop is not cut off": {"clip": False},
    "gives a sequence without keys no piece": {"least": 0},
    "makes pieces overlap by a key": {"overlap": 1},
    "counts a sequence's keys from piece 0, not from its own first piece": {"own_first": False},
    "launches `pieces` programs, not pieces + batch − 1": {"programs": PIECES},
    "rounds steps down: a last step that is not full has no place": {"steps_of": lambda n: n // STEP},
}


@exercise("08.c", "a test that catches")
def catching_lengths(answer: Answer) -> Iterator[tuple[bool, str]]:
    """Lengths by which each of six planted bugs shows."""
    lengths = list(answer())
    yield 1 <= len(lengths) <= 4, "one to four lengths"
    yield all(type(n) is int and 0 <= n <= 400 for n in lengths), "integers from 0 to 400"
    for words, bug in COLLEAGUES.items():
        yield not faultless(cut(lengths, **bug), lengths), f"not caught: one who {words}"
