"""A figure that follows sliders.

A page without a running kernel shows the view's text alone, so a notebook draws the same figure once without sliders.
"""

import inspect
import io
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt


class Explorer(ipywidgets.VBox):
    """Sliders above the figure that they set; made by :func:`explore`."""

    def __init__(self, draw: Callable[..., Any], sliders: dict[str, ipywidgets.Widget]) -> None:
        self.draw, self.sliders = draw, sliders
        self.picture = ipywidgets.Image(format="png")
        # flex-start: the picture keeps its own size instead of the cell's width, which would blur it.
        super().__init__([*sliders.values(), self.picture], layout={"align_items": "flex-start"})
        for slider in sliders.values():
            slider.observe(self.redraw, names="value")
        self.redraw()

    def redraw(self, change: Any = None) -> None:
        self.draw(**{name: slider.value for name, slider in self.sliders.items()})
        png = io.BytesIO()
        plt.gcf().savefig(png, format="png")
        plt.close()  # else the notebook would show it once more, below the cell
        self.picture.value = png.getvalue()

    def __repr__(self) -> str:
        # The text/plain of the view: no bytes of the picture, which differ from machine to machine.
        return f"Open this notebook in Jupyter to move: {', '.join(self.sliders)}"


def explore(draw: Callable[..., Any], **values: tuple[int, int] | Sequence[Any]) -> Explorer:
    """``draw(**values)`` makes a figure with pyplot; a slider for each of its arguments redraws it.

    Args:
        draw: its arguments' defaults are where the sliders start.
        values: for each argument a tuple (first, last) of integers, or a list of what may be chosen.

    Returns:
        A widget; let it be the cell's last line.
    """
    start = {name: p.default for name, p in inspect.signature(draw).parameters.items()}
    return Explorer(draw, {name: _slider(name, start[name], allowed) for name, allowed in values.items()})


def _slider(name: str, value: Any, allowed: tuple[int, int] | Sequence[Any]) -> ipywidgets.Widget:
    looks = {"description": name, "style": {"description_width": "8em"}, "layout": {"width": "32em"}}
    if isinstance(allowed, tuple):
        return ipywidgets.IntSlider(value=value, min=allowed[0], max=allowed[1], **looks)
    return ipywidgets.SelectionSlider(value=value, options=list(allowed), **looks)
