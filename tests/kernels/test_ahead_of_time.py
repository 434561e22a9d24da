"""Every tile that can be selected, compiled for cards that are not here (see ``ahead_of_time.py``)."""

import json
import os
import subprocess
import sys

import pytest

from tests.kernels.ahead_of_time import SHARED

IN_EVERY_RUN = (80, 90)


@pytest.mark.parametrize(
    "capability", [c if c in IN_EVERY_RUN else pytest.param(c, marks=pytest.mark.slow) for c in SHARED]
)
def test_compiles_and_fits(capability):
    """Catches what only the compiler refuses (an argument that is 1 is a constant to it), a tile that asks for more
    shared memory than the card has, which compiling alone does not notice, and on sm_80 and sm_90 registers that
    spill. (On newer and smaller cards a few tiles spill up to 48 bytes a thread; they were not chosen there yet.)"""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.kernels.ahead_of_time", str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) > 100
    assert [k for k in kernels if "error" in k] == []
    assert [k for k in kernels if k["shared"] > k["limit"]] == []
    # A frame of 8 bytes is the compiler's own; anything larger holds registers that did not fit.
    assert [k for k in kernels if k["stack"] > 8 and capability in IN_EVERY_RUN] == []
