"""Processes that want the same folder of the cache at once: one makes it, whatever becomes of the other."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.faults.conftest import ROOT, tree


@pytest.fixture
def start(tiny_gguf, tmp_path):
    """Start to import a file in a process of its own, with the fault that ``program.run`` takes; all are ended."""
    processes = []

    def popen(**fault) -> subprocess.Popen:
        request = {"argv": ["import", str(tiny_gguf)], "cache": str(tmp_path / "cache")} | fault
        code = "import json, sys; from tests.faults import program; program.run(**json.loads(sys.argv[1]))"
        command = [sys.executable, "-c", code, json.dumps(request)]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield popen
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "what_becomes",
    ["is killed", *(pytest.param(end, marks=pytest.mark.slow) for end in ("ends", "the second is killed"))],
)
def test_the_second_waits(what_becomes, start, run, tiny_gguf, tmp_path):
    """The first stops half-way, its weights written. Catches both that write into one folder or do the work twice, a
    second that waits for a dead one, or takes up what a killed one left, and remains of either."""
    whole = run("import", tiny_gguf, cache=tmp_path / "whole")
    first = start(fault=signal.SIGSTOP, at=whole.steps // 2)
    assert os.WIFSTOPPED(os.waitpid(first.pid, os.WUNTRACED)[1])
    second = start()
    assert second.stderr.readline() == f"{whole.folder.name}: another process makes it: waiting\n"
    if what_becomes == "is killed":
        first.kill()
    if what_becomes == "the second is killed":
        second.kill()
        assert second.wait() == -signal.SIGKILL
    if what_becomes != "is killed":
        first.send_signal(signal.SIGCONT)
        assert first.communicate()[0] == f"{tmp_path / 'cache' / whole.folder.name}\n"
    if what_becomes != "the second is killed":
        printed, said = second.communicate()
        assert printed == f"{tmp_path / 'cache' / whole.folder.name}\n"
        assert ("converting" in said) == (what_becomes == "is killed")
    assert tree(tmp_path / "cache") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_many_at_once(start, run, tiny_gguf, tmp_path):
    """None is held up anywhere. Catches a folder that goes between the moments when it is asked for and locked."""
    run("import", tiny_gguf, cache=tmp_path / "whole")
    processes = [start() for _ in range(3)]
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, ends
    assert sum("converting" in said for _, said in ends) == 1
    assert tree(tmp_path / "cache") == tree(tmp_path / "whole")
