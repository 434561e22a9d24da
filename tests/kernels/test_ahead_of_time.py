"""Every tile that can be selected, compiled for cards that are not here (see ``ahead_of_time.py``)."""

import json
import os
import subprocess
import sys

import pytest

from tests.kernels.ahead_of_time import GROWING, SHARED

IN_EVERY_RUN = ("sm_80", "sm_90")


def run(*arguments: str) -> list[dict]:
    command = [sys.executable, "-m", "tests.kernels.ahead_of_time", *arguments]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "target", [t if t in IN_EVERY_RUN else pytest.param(t, marks=pytest.mark.slow) for t in SHARED]
)
def test_compiles_and_fits(target):
    """Catches what only the compiler refuses (an argument that is 1 is a constant to it), a tile that asks for more
    shared memory than the card has, which compiling alone does not notice, from sm_80 on registers that spill, and a
    group of warps that leaves a slot while one of them still waits for it."""
    kernels = run("compile", target)
    assert len(kernels) > 100
    assert [k for k in kernels if "error" in k] == []
    assert [k for k in kernels if k["shared"] > k["limit"]] == []
    assert [k for k in kernels if k.get("early")] == []
    # A frame of 8 bytes is the compiler's own; anything larger holds registers that did not fit.
    # The Gluon kernel fills its registers to the last: parts of a mask and what waits for the end do not fit.
    allowed = {"flash_attention_hopper_kernel": 64}
    assert [k for k in kernels if k["stack"] > allowed.get(k["key"].split()[1], 8) and target != "sm_75"] == []


def test_oldest_card_has_a_tile_for_every_operation():
    """Catches what no T4 can do, without the minutes that compiling all for it takes."""
    kernels = run("first", "sm_75")
    assert [k for k in kernels if "error" in k or k["shared"] > k["limit"]] == []
    assert len({k["key"].split()[1] for k in kernels}) >= 10


def test_growing_lengths_compile_few_variants():
    """Catches a length that became a constant of the kernel: every token would compile one more."""
    variants = {each["op"]: each["variants"] for each in run("variants")}
    assert variants.keys() == set(GROWING)
    # Lengths from 1 to 8192: softmax has a block size for each power of two, an alignment (1, 2, 4, 8, 16) for each.
    assert variants.pop("softmax") <= 60
    # Elsewhere the length is a number of rows: 1, a multiple of 16, or neither; rotary_embedding has two tiles.
    assert variants.pop("rotary_embedding") <= 6
    # Products change their tile with the number of rows: linear has six, each for whole tiles only and with pieces.
    assert variants.pop("linear") <= 12
    assert variants.pop("swiglu") <= 4
    assert max(variants.values()) <= 3
