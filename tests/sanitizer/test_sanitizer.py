"""The sanitizer's script, as far as it goes without one: what it reads in logs, writes, and would launch."""

from collections import Counter

import pytest

from pytriton_llama import kernels
from pytriton_llama.runtime import interpreted
from tests.sanitizer import launches
from tests.sanitizer.__main__ import Run
from tests.sanitizer.document import text
from tests.sanitizer.log import Report, reports

RACES = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at hopper_kernel+0x4c60 in /somewhere/hopper.py:285
=========     and Read access at hopper_kernel+0x4f70 in /somewhere/hopper.py:224 [16384 hazards]
=========
========= Error: Race reported between Write access at hopper_kernel+0x9990 in /somewhere/hopper.py:285
=========     and Read access at hopper_kernel+0x1230 in /somewhere/hopper.py:224 [12 hazards]
=========
========= Warning: Race reported between Read access at void at::native::reduce_kernel(int)+0x10 in Reduce.cuh:7
=========     and Write access at void at::native::reduce_kernel(int)+0x20 in Reduce.cuh:9 [4 hazards]
=========
========= RACECHECK SUMMARY: 3 hazards displayed (2 errors, 1 warning)
"""
ACCESSES = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at softmax_kernel+0x1d0 in softmax.py:46
=========     by thread (31,0,0) in block (2,0,0)
=========     Access at 0x7f2c5f000200 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f2c5f000000 of size 512 bytes
=========
========= Uninitialized __global__ memory read of size 2 bytes
=========     at rms_norm_kernel+0x90
=========     by thread (0,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 2 errors
"""
RACE = Report("hopper_kernel", "Error: Race reported", ("Write hopper.py:285", "Read hopper.py:224"))


def test_logs():
    """Catches reports that are counted by address, those of other kernels, and places that are lost."""
    assert reports(RACES, {"hopper_kernel"}) == {RACE: 2}
    assert reports(ACCESSES, {"softmax_kernel", "rms_norm_kernel"}) == {
        Report("softmax_kernel", "Invalid __global__ read of size 4 bytes", ("softmax.py:46",)): 1,
        Report("rms_norm_kernel", "Uninitialized __global__ memory read of size 2 bytes", ()): 1,
    }


def test_a_log_without_an_end():
    """Catches a tool that was killed, and therefore has reported nothing, as one that found nothing."""
    with pytest.raises(ValueError, match="not come to an end"):
        reports(ACCESSES.rpartition("=========")[0], {"softmax_kernel"})


def test_the_document():
    """Catches a report that does not reach the document, and a failure that reads as none found."""
    runs = [
        Run("racecheck", "attention", {"hopper_kernel": 9}, Counter({RACE: 2})),
        Run("memcheck", "rows", {"softmax_kernel": 3}, Counter(), "ended with 124: too long"),
    ]
    lines = text("a GPU", "Version 1", runs).splitlines()
    assert "| racecheck | hopper_kernel | 9 | 2 | 1 |" in lines
    assert "| memcheck | softmax_kernel | 3 | none: ended with 124 | 0 |" in lines
    assert "| Error: Race reported | Write hopper.py:285 and Read hopper.py:224 | 2 |" in lines


def test_every_operation_has_a_group():
    """Catches an operation that no sanitizer sees."""
    public = {name for name in kernels.__all__ if name[0].islower()}
    assert sorted(name for names in launches.GROUPS.values() for name in names) == sorted(public)


@pytest.mark.parametrize("group", launches.GROUPS)
def test_launches(group, monkeypatch):
    """Catches operands that the operations refuse: a GPU's minutes would go by in vain."""
    monkeypatch.setattr(launches.many, "MANY", {})
    for operation, arguments in launches.runs(group, "cpu" if interpreted() else "cuda"):
        operation.run(kernels, arguments)
