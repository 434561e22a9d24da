"""What the notebooks import, so that no harness code stands between reader and lesson.

check      ours against the oracle, over named inputs: verdicts only
traffic    bytes moved: by a torch tiling, by a kernel; and the faults that only watching shows
cards      what GPUs can do at most, by their data sheets
figures    lanes, tiles, program order, the roofline
exercises  ``grade(fn, "00.a")``, and a file of checkers for each notebook
measure    ours beside its peers: live on a GPU, else as recorded
source     whether a notebook's kernel is the package's
widgets    a figure with sliders
chat       a model to talk to, in a widget; inside: what it computed
first_cells  how notebooks begin: what `make first-cells` writes

What a notebook's compared cells print is the same where kernels are interpreted and where they are compiled: verdicts
and exact integers. How far off something was is shown by ``.details()``, in a cell whose output is ignored.
"""

from pytriton_llama.course import figures, widgets
from pytriton_llama.course.cards import H100, Card, this_card
from pytriton_llama.course.check import check
from pytriton_llama.course.exercises import grade
from pytriton_llama.course.inputs import device, draw
from pytriton_llama.course.measure import measure, peak_memory, recorded_ceilings, seconds
from pytriton_llama.course.source import same_kernel
from pytriton_llama.course.traffic import Traffic, traffic, watch

__all__ = [
    "H100",
    "Card",
    "Traffic",
    "check",
    "device",
    "draw",
    "figures",
    "grade",
    "measure",
    "peak_memory",
    "recorded_ceilings",
    "same_kernel",
    "seconds",
    "this_card",
    "traffic",
    "watch",
    "widgets",
]
