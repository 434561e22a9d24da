"""Exercises of notebook 02."""

from collections.abc import Iterator

from pytriton_llama.course.exercises import Answer, agrees, exercise, watched
from pytriton_llama.course.inputs import Draw


@exercise("02.a", "what a tiled product asks for")
def asked_for(answer: Answer) -> Iterator[tuple[bool, str]]:
    """(bytes loaded, bytes stored) by version 3's programs, all M, N, K."""
    loaded, stored = answer(64, 32, 100, 64, 32, 2)  # a single tile
    yield (loaded, stored) != (9600, 2048), "bytes, not elements"
    yield loaded == 2 * 96 * 100, "a single tile: its rows of x and of weight come in once"
    yield stored == 2 * 64 * 32, "every element of y is stored once"
    loaded = answer(128, 32, 10, 64, 32, 1)[0]  # two tiles, one above the other
    yield loaded != 128 * 10 + 32 * 10, "each program loads for itself: two programs read the same rows of weight"
    yield loaded != 2 * 128 * 10 + 32 * 10, "how many programs read a row of x? as many as there are tiles side by side"
    yield loaded == 128 * 10 + 2 * 32 * 10, "two tiles, one above the other: whose rows are read twice?"
    loaded, stored = answer(65, 33, 10, 64, 32, 1)  # four tiles, three of them nearly empty
    yield loaded != 65 * 33 // (64 * 32) * 96 * 10, "a tile that hangs over has a program, too: round up"
    yield loaded != 4 * 96 * 10, "masked-off lanes load nothing: a row that doesn't exist is read by nobody"
    yield loaded == 2 * 65 * 10 + 2 * 33 * 10, "65 × 33 in tiles of 64 × 32: how often is each row that exists read?"
    yield stored == 65 * 33, "masked-off lanes store nothing"
    yield answer(65, 97, 10, 64, 32, 4) == (4 * (4 * 65 + 2 * 97) * 10, 4 * 65 * 97), "65 × 97, in 4 bytes"


@exercise("02.b", "a snake of tiles")
def snake(answer: Answer) -> Iterator[tuple[bool, str]]:
    """(row, column) of a tile; columns of a group alternately down and up."""
    walk = [tuple(answer(tile, 7, 5, 3)) for tile in range(35)]
    yield walk[1] != (0, 1), "(row, column), and down first: tile 1 is below tile 0"
    yield walk[:3] == [(0, 0), (1, 0), (2, 0)], "the first tiles go down column 0 of the first group"
    yield walk[3] != (0, 1), "after the last row of column 0 comes the tile beside it, not the one at the top"
    yield walk[3:6] == [(2, 1), (1, 1), (0, 1)], "column 1 goes up"
    yield walk[6:9] == [(0, 2), (1, 2), (2, 2)], "column 2 goes down again"
    yield walk[15] == (3, 0), "the second group starts at column 0, in its first row"
    yield max(row for row, _ in walk) < 7, "the last group is shorter: from which end do its odd columns start?"
    yield sorted(walk) == [(row, column) for row in range(7) for column in range(5)], "every tile is made once"
    yield walk[30:32] == [(6, 0), (6, 1)], "the last group, of one row, goes from left to right"
    walk = [tuple(answer(tile, 5, 4, 3)) for tile in range(20)]
    yield walk[12:16] == [(3, 0), (4, 0), (4, 1), (3, 1)], "a last group of two rows: down, up, down, up"


@exercise("02.c", "a batched product")
def batched(answer: Answer) -> Iterator[tuple[bool, str]]:
    draw = Draw(1)
    for B, M, N, K, hint in (
        (1, 64, 64, 64, "one matrix: it is version 3"),
        (3, 64, 64, 64, "y[b] belongs to x[b] and weight[b]: all three have to be shifted"),
        (2, 5, 7, 64, "few rows: which lanes exist?"),
        (2, 64, 64, 50, "K = 50: zeros past K, in both factors"),
        (3, 130, 70, 200, "more than one tile, and more than one step"),
        (1, 3, 200, 300, "wide and low: where does the last tile of a row end?"),
    ):
        x, weight = draw(B, M, K), draw(B, N, K)
        expected = x.double() @ weight.double().transpose(1, 2)
        yield agrees(watched(answer, x, weight), expected), f"{B} × ({M}, {N}, {K}): {hint}"
