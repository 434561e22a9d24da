import matplotlib.pyplot as plt

from pytriton_llama.course import widgets


def test_explore():
    """Catches sliders that don't redraw, defaults that are not the start, a figure left for the cell to show twice, and
    a picture's bytes (another machine's fonts) in what nbval compares."""
    plt.switch_backend("agg")
    drawn = []

    def draw(BLOCK=32, pid=2):
        drawn.append((BLOCK, pid))
        plt.plot([0, pid])

    view = widgets.explore(draw, BLOCK=[16, 32, 64], pid=(0, 7))
    before = bytes(view.picture.value)
    view.sliders["pid"].value = 7
    view.sliders["BLOCK"].value = 64
    assert drawn == [(32, 2), (32, 7), (64, 7)]
    assert before.startswith(b"\x89PNG") and bytes(view.picture.value) != before
    assert plt.get_fignums() == []
    assert repr(view) == "Open this notebook in Jupyter to move: BLOCK, pid"
    assert len(repr(view)) < 110  # where ipywidgets cuts it off
