"""``pytriton-llama import``: a GGUF file becomes a checkpoint's folder, or one line says why not."""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from pytriton_llama.llama import entry, fetch


def run(*arguments: object, cache: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pytriton_llama", *map(str, arguments)],
        env=os.environ | {"PYTRITON_LLAMA_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_default_model_s_own_file(smollm2, tmp_path):
    """Catches a folder that is not the one printed, and a conversion that differs from fetch's."""
    file = fetch.cache_dir() / f"{fetch.DEFAULT}.gguf"
    done = run("import", file, tmp_path / "out", cache=tmp_path / "cache")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n"), done.stderr
    assert done.stderr == f"converting {file.name} to bf16 safetensors\n"
    assert {f.name for f in (tmp_path / "out").iterdir()} == {f.name for f in smollm2.iterdir()} | {entry.SUMS}
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", smollm2))
    assert all(ours[name].equal(tensor) for name, tensor in theirs.items())


def test_keep_quantized(smollm2, tmp_path):
    """Catches an option that is dropped, bits that are expanded, and a program that cannot run them."""
    file, cache = fetch.cache_dir() / f"{fetch.DEFAULT}.gguf", tmp_path / "cache"
    done = run("import", "--keep-quantized", file, cache=cache)
    (folder,) = cache.iterdir()
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert done.stderr == f"converting {file.name} to quantized safetensors\n"
    assert sum(f.stat().st_size for f in folder.glob("*.safetensors")) < file.stat().st_size < 1e8
    question = ("chat", "What is the capital of France?", "--model", folder, "--kernels", "torch")
    assert run(*question, cache=cache).stdout == "The capital of France is Paris.\n"


@pytest.mark.parametrize("command", ["import", "generate"])
def test_broken_files_end_in_one_line(command, tmp_path):
    """Catches a traceback, and remains in the cache."""
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(20))
    options = (
        ("import", tmp_path / "bad.gguf")
        if command == "import"
        else ("generate", "hi", "--model", tmp_path / "bad.gguf")
    )
    done = run(*options, cache=tmp_path / "cache")
    assert done.returncode == 2 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last.startswith("error: ") and "bad.gguf: not a readable GGUF file" in last and "Traceback" not in done.stderr
    )
    assert list((tmp_path / "cache").iterdir()) == []
