"""Figures show what index arithmetic says; what they look like is for eyes."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import Rectangle

from pytriton_llama.course import H100, figures


@pytest.fixture(autouse=True)
def closed():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def boxes(hatched: bool) -> set[tuple[float, float, float, float]]:
    """Corner, width and height of the boxes drawn."""
    patches = [p for p in plt.gca().patches if isinstance(p, Rectangle) and p.get_facecolor()[3]]
    return {(*p.get_xy(), p.get_width(), p.get_height()) for p in patches if bool(p.get_hatch()) == hatched}


def test_lanes():
    """Catches masked-off lanes drawn as if they worked, and lanes drawn at their place in the block, not in memory."""
    offs = torch.arange(3)[:, None] * 8 + torch.arange(8)
    figures.lanes(offs, offs < 20)
    assert {x + 0.5 for x, *_ in boxes(hatched=False)} == set(range(20))
    assert {x + 0.5 for x, *_ in boxes(hatched=True)} == {20, 21, 22, 23}


def test_many_lanes_are_joined():
    """Catches a picture of a million boxes; runs that are apart stay apart."""
    offs = torch.arange(4)[:, None] * 1024 + torch.arange(1024)
    figures.lanes(offs, (offs < 4000) & (offs != 100))
    drawn = {(x + 0.5, width) for x, _, width, _ in boxes(hatched=False)}
    assert drawn == {(0, 100), (101, 923), (1024, 1024), (2048, 1024), (3072, 928)}


def test_tiles():
    """Catches rows taken for columns, and a tile's overhang drawn as if it belonged to the matrix."""

    def tile_of(pid):
        return pid // 2 * 4 + torch.arange(4), pid % 2 * 8 + torch.arange(8)

    figures.tiles((6, 10), tile_of, range(4), order=True)
    assert boxes(hatched=False) == {(0, 0, 8, 4), (8, 0, 2, 4), (0, 4, 8, 2), (8, 4, 2, 2)}
    assert boxes(hatched=True) == {(0, 0, 8, 4), (8, 0, 8, 4), (0, 4, 8, 4), (8, 4, 8, 4)}


def test_memory():
    """Catches offsets that are not where they are on the axis."""
    figures.memory({"x": torch.tensor([3, 5]), "y": [0]}, 8)
    blue = [p for p in plt.gca().patches if p.get_facecolor()[:3] != (1, 1, 1)]
    assert [p.get_x() + 0.5 for p in blue] == [3, 5, 0]


def test_roofline():
    """Catches GFLOP/s on an axis of TFLOP/s, intensity upside down, and points above the roof."""
    figures.roofline(H100, {"add": (1, 12), "product": (10_000, 1)}, peak="fp16")
    add, product = (line.get_xydata()[0].tolist() for line in plt.gca().lines if len(line.get_xydata()) == 1)
    assert add == pytest.approx([1 / 12, H100.bandwidth / 12 / 1e12])
    assert product == pytest.approx([10_000, H100.fp16 / 1e12])


def test_steps():
    """Catches a box coloured that was not asked for, and a shape that stands in another row."""
    figures.steps({"one": [("q · k", "scores"), ("softmax", "weights")], "two": [("softmax", "chances")]}, "softmax")
    coloured = [p.get_y() + 0.22 for p in plt.gca().patches if p.get_facecolor()[:3] != (1, 1, 1)]
    assert coloured == pytest.approx([0, 1])
    height = {t.get_text(): int(t.get_position()[1]) for t in plt.gca().texts}
    assert (height["scores"], height["weights"], height["chances"]) == (0, 0, 1)


def test_llama():
    """Catches an operation missing from the way through Llama, and numbers that no box hands on."""
    figures.llama("rms_norm")
    coloured = [p.get_x() + 0.42 for p in plt.gca().patches if isinstance(p, Rectangle) and p.get_facecolor()[2] < 1]
    assert coloured == pytest.approx([1, 6, 9])  # before attention, before the feed-forward half, before the logits
    assert [t.get_text() for t in plt.gca().texts].count("8192") == 1


def test_waterfall():
    """Catches a gain taken from another step than the one before, and a step that got slower drawn as a gain."""
    times = {"eager": "400", "graph": "100", "slower": "150", "fused": "50.0"}
    figures.waterfall([{"step": step, "us_per_token": us, "gpu": "a card"} for step, us in times.items()], floor=40)
    assert {(x, round(y), width) for x, y, width, _ in boxes(hatched=False)} == {
        (0, 0, 400),
        (0, 1, 100),
        (0, 2, 150),
        (0, 3, 50),
    }
    assert {(x, round(y), width) for x, y, width, _ in boxes(hatched=True)} == {
        (400, 0, 0),
        (100, 1, 300),
        (100, 2, 50),
        (50, 3, 100),
    }
    assert [line.get_xdata()[0] for line in plt.gca().lines] == [40]


def test_figures_are_alike_everywhere():
    """Catches a figure that takes its background from the theme, or its size from its content."""
    figures.roofline(H100, {"add": (1, 12)})
    assert plt.gcf().get_facecolor() == (1, 1, 1, 1)
    assert plt.gcf().get_size_inches().tolist() == [8, 4]
