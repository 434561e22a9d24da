"""docs/sanitizer.md."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import torch
import triton

if TYPE_CHECKING:
    from tests.sanitizer.__main__ import Run

# What reports have been found to be, by tool and kernel.
JUDGED: dict[tuple[str, str], str] = {
    (
        "racecheck",
        "flash_attention_hopper_kernel",
    ): """\
By reading, no race.
`announce` and `take_tile` hand a number from one warp to eight or twelve others through shared memory: written
once an mbarrier says that all have read the last one, read once another says that it is there. The tool does not follow
mbarriers that one thread arrives at for its warps; that those warps have met before it does is what
`test_ahead_of_time.py` reads from the machine code ("early"). The kernel's first line and `warp_specialize` are the
compiler's own hand-over of arguments to the other warps. `test_repeats.py` finds the same bits a hundred times.""",
    ("racecheck", "quantized_linear_kernel"): """\
By reading, no race.
A sum over a row's chunks leaves the same number in several threads; on the way to the store they all write it
to the same place in shared memory.""",
}

TEMPLATE = """\
# compute-sanitizer over every kernel

`make sanitizer` wrote this on {{ date }}: {{ gpu }}, compute-sanitizer {{ version }},
torch {{ torch }}, triton {{ triton }}. Each group of kernels ran under each tool: all public operations, at one
element, at lengths that no tile divides, as parts of larger tensors, in 16 and 32 bits, then at sizes of many programs
(`tests/sanitizer/launches.py`). Every tensor was an allocation of its own.

| tool | kernels | launches | reports | kinds of them |
|---|---|---|---|---|
{% for run in runs -%}
| {{ run.tool }} | {{ run.launches | sort | join(", ") }} | {{ run.launches.values() | sum }} | \
{{ run.failure and "none: " ~ run.failure.split(":")[0] or run.found.total() }} | {{ run.found | length }} |
{% endfor %}
## The reports

{% for run in runs if run.found -%}
{% for kernel in run.found | map(attribute="kernel") | unique | sort -%}
### {{ run.tool }}: {{ kernel }}

{{ judged.get((run.tool, kernel), "Not judged yet.") }}

| report | where | times |
|---|---|---|
{% for report, times in run.found | dictsort if report.kernel == kernel -%}
| {{ report.what }} | {{ report.places | join(" and ") or "unknown" }} | {{ times }} |
{% endfor %}
{% endfor -%}
{% else -%}
None.
{% endfor -%}
"""


def text(gpu: str, version: str, runs: list[Run]) -> str:
    template = jinja2.Template(TEMPLATE, keep_trailing_newline=True)
    versions = {"torch": torch.__version__, "triton": triton.__version__, "version": version}
    made = template.render(date=datetime.date.today().isoformat(), gpu=gpu, runs=runs, judged=JUDGED, **versions)
    return made.rstrip() + "\n"


def write(path: Path, sanitizer: str, runs: list[Run]) -> None:
    told = subprocess.run([sanitizer, "--version"], capture_output=True, text=True).stdout.split("\n")
    version = next((line.strip().removeprefix("Version ") for line in told if "ersion" in line), "of no known version")
    path.write_text(text(torch.cuda.get_device_name(), version, runs))
