"""Who decides whether kernels are compiled or interpreted, and when."""

import os
import subprocess
import sys

import pytest

from pytriton_llama.runtime import interpreted


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.skipif(not interpreted(), reason="this machine's torch sees a GPU")
def test_without_a_gpu_kernels_are_interpreted():
    """Catches a decision that comes after triton's import, and one that costs the import of torch or triton."""
    code = (
        "import sys, pytriton_llama\n"
        "print('torch' in sys.modules, 'triton' in sys.modules)\n"
        "import triton\n"
        "from pytriton_llama import interpreter, runtime\n"
        "print(runtime.interpreted(), interpreter.enabled())"
    )
    assert run(code).stdout.split() == ["False", "False", "True", "True"]


@pytest.mark.skipif(not interpreted(), reason="this machine's torch sees a GPU")
def test_triton_imported_first_is_said():
    """Catches silence where every launch would fail for want of a driver."""
    said = run("import triton, pytriton_llama").stderr
    assert "import pytriton_llama first" in said
    assert not run("import triton, pytriton_llama", TRITON_INTERPRET="1").stderr


def test_what_the_user_set_stays():
    """Catches a package that overrules TRITON_INTERPRET, either way."""
    code = "import pytriton_llama; from pytriton_llama import runtime; print(runtime.interpreted())"
    assert run(code, TRITON_INTERPRET="0").stdout.strip() == "False"
    assert run(code, TRITON_INTERPRET="1").stdout.strip() == "True"
