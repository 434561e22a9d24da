"""The program, run under faults, and a GGUF file for it to import."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.llama.test_gguf import tiny_weights, write_tiny

ROOT = Path(__file__).parents[2]


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str
    steps: int

    @property
    def folder(self) -> Path:
        """What a command that makes one has printed."""
        assert self.returncode == 0, self.stderr
        return Path(self.stdout.removesuffix("\n"))

    def assert_one_line(self, *words: str) -> None:
        """Exit code 2, and the last line, all of the error, has these words."""
        assert (self.returncode, self.stdout) == (2, ""), self
        *before, last = self.stderr.splitlines()
        assert last.startswith("error: ") and not any(line.startswith(("error", "Trace")) for line in before), self
        for word in words:
            assert word in last


@pytest.fixture(scope="session")
def program():
    command = [sys.executable, "-m", "tests.faults.program"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server
        server.stdin.close()


@pytest.fixture
def run(program) -> Callable[..., Result]:
    """``run(*arguments, cache=…)``, and what else ``program.run`` takes."""

    def request(*arguments: object, cache: Path, **fault) -> Result:
        values = {"argv": list(map(str, arguments)), "cache": str(cache)} | fault
        print(json.dumps(values), file=program.stdin, flush=True)
        return Result(*json.loads(program.stdout.readline()))

    return request


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny(file, tiny_weights())
    return file


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path, and every folder, with a / behind."""
    return {
        str(path.relative_to(folder)) + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }
