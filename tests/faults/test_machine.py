"""What the environment says of GPU, compiler and caches: a clear line, or nothing where it does not matter."""

import os
import subprocess
import sys

import pytest

from pytriton_llama.runtime import NO_GPU, interpreted

no_gpu = pytest.mark.skipif(not interpreted(), reason="this machine's torch sees a GPU")
NOT_INHERITED = ("TRITON_INTERPRET", "TRITON_CACHE_DIR", "CUDA_VISIBLE_DEVICES")
INTERPRETED = "kernels run in Triton's interpreter on the CPU, slowly; --kernels torch is the fast oracle"


def python(*arguments: object, **environment: object) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=inherited | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def generate(run, tiny_gguf, tmp_path):
    """``generate(…, NAME=value)``: the program, as it is called, with a tiny model and this environment."""
    model = run("import", tiny_gguf, tmp_path / "model", cache=tmp_path / "cache").folder
    words = ("-m", "pytriton_llama", "generate", "he", "--max-new-tokens", 2, "--model", model)
    return lambda *options, **environment: python(*words, *options, **environment)


@pytest.fixture
def no_folder(tmp_path):
    """Where nobody, root neither, can make a folder."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "folder"


@no_gpu
def test_what_only_a_compiler_needs(generate, no_folder):
    """Without a GPU nothing is compiled. Catches caches that are made without need; an empty variable taken for 0; and
    HOME, where Triton's cache is by default."""
    done = generate(TRITON_CACHE_DIR=no_folder, HOME=no_folder, CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="")
    assert done.returncode == 0 and done.stderr.startswith(f"no GPU: {INTERPRETED}\n"), done.stderr


@no_gpu
def test_compiled_kernels_without_a_gpu(generate):
    """TRITON_INTERPRET=0 is the user's, and stays. Catches torch's AssertionError, and a line that names a device of
    which nobody spoke."""
    done = generate(TRITON_INTERPRET=0)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {NO_GPU}\n")
    assert generate("--kernels", "torch", TRITON_INTERPRET=0).returncode == 0
    done = python("-m", "pytriton_llama", "info", TRITON_INTERPRET=0)
    assert done.returncode == 0 and NO_GPU in done.stdout, done.stderr


@no_gpu
def test_triton_imported_first():
    """The warning is easily overlooked. Catches what Triton and torch say of drivers when a kernel is called then."""
    code = "import triton, torch; from pytriton_llama.kernels import softmax; softmax(torch.randn(2, 3))"
    done = python("-c", code)
    assert done.stderr.splitlines()[-1] == f"ValueError: softmax: {NO_GPU}", done.stderr


def test_triton_s_cache_is_named(no_folder):
    """Triton's own code, as it runs before it compiles, inside of a command. Catches a traceback, and a line that does
    not say which of the caches it was."""
    code = (
        "import sys; sys.argv = ['pytriton-llama', 'info']\n"
        "import pytriton_llama.info; from pytriton_llama import cli\n"
        "from triton.runtime.cache import FileCacheManager\n"
        "pytriton_llama.info.lines = lambda: FileCacheManager('key')\n"
        "cli.main()"
    )
    done = python("-c", code, TRITON_CACHE_DIR=no_folder)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: [Errno 20] Not a directory: '{no_folder}' (Triton keeps compiled kernels in {no_folder}; "
        "TRITON_CACHE_DIR names another folder)\n"
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("variables", "why"),
    [({"CUDA_VISIBLE_DEVICES": ""}, "no GPU"), ({"TRITON_INTERPRET": "1"}, "TRITON_INTERPRET is set")],
)
def test_interpreted_on_a_gpu_machine(variables, why, generate, no_folder):
    """Catches a model put on the GPU that no kernel reaches, a compiler that is asked after all, and a machine with a
    GPU that is said to have none."""
    done = generate(**variables, TRITON_CACHE_DIR=no_folder)
    assert done.returncode == 0 and done.stderr.startswith(f"{why}: {INTERPRETED}\n"), done.stderr
    info = python("-m", "pytriton_llama", "info", **variables)
    assert "interpreted on the CPU (the fast interpreter)" in info.stdout, info.stderr


@pytest.mark.gpu
def test_an_unwritable_triton_cache(generate, no_folder, tmp_path):
    """Catches a traceback from the compiler's midst, and a run after it that fails too."""
    done = generate(TRITON_CACHE_DIR=no_folder)
    assert (done.returncode, done.stdout.strip()) == (2, ""), done.stderr
    assert f"Triton keeps compiled kernels in {no_folder}; TRITON_CACHE_DIR" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    done = generate(TRITON_CACHE_DIR=tmp_path / "triton")
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("order", ["triton, pytriton_llama", "pytriton_llama, triton"])
def test_either_import_first_on_a_gpu_machine(order):
    """Catches a warning where nothing is wrong: there, Triton compiles whoever imports it."""
    code = (
        f"import {order}, torch; from pytriton_llama.kernels import softmax\n"
        "x = torch.randn(2, 3, device='cuda'); print(torch.allclose(softmax(x), x.softmax(-1)))"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("True\n", "")
