"""Disks that are full, read-only or lose data: one line of error, nothing lost, and the next run works."""

import os
import signal
import subprocess
import sys

import pytest

from pytriton_llama.llama import entry, fetch
from tests.faults.conftest import tree


@pytest.fixture(params=["import", pytest.param("quantize", marks=pytest.mark.slow)])
def command(request, run, tiny_gguf, tmp_path):
    """What makes a folder in the cache of a source, as arguments; the source is elsewhere."""
    if request.param == "import":
        return "import", tiny_gguf
    return "quantize", run("import", tiny_gguf, tmp_path / "source", cache=tmp_path / "unused").folder


@pytest.fixture
def cache(tmp_path):
    """A cache that holds another model."""
    folder = tmp_path / "cache"
    (folder / "other").mkdir(parents=True)
    (folder / "other" / "config.json").write_bytes(os.urandom(20))
    return folder


def test_full_from_any_step_on(run, command, cache, tmp_path):
    """Catches half a folder, a traceback, an error blamed on the source, and remains: at each file opened for writing,
    folder made and weight file saved, there is no space from then on."""
    whole = run(*command, cache=tmp_path / "whole")
    kept = tree(cache)
    failed = 0
    for at in range(whole.steps):
        done = run(*command, cache=cache, fault="full", at=at)
        if done.returncode:
            done.assert_one_line("cannot be written", "No space left on device")
            assert "gguf:" not in done.stderr
            assert tree(cache) == kept
            failed += 1
    assert failed > 5
    done = run(*command, cache=cache)
    assert tree(done.folder) == tree(whole.folder)


def test_files_that_end_early(run, command, cache, tmp_path):
    """As above, by the system itself, in the midst of each file. Catches errors of safetensors, which are no OSErrors,
    and files whose last bytes are written, and lost, when they are closed."""
    whole = tree(run(*command, cache=tmp_path / "whole").folder)
    kept = tree(cache)
    for size in sorted({0, 1, *(len(data) // 2 for data in whole.values()), max(map(len, whole.values())) - 1}):
        run(*command, cache=cache, largest=size).assert_one_line("cannot be written", "File too large")
        assert tree(cache) == kept
    assert tree(run(*command, cache=cache).folder) == whole


def test_killed_before_any_step(run, command, tmp_path):
    """Catches half a folder taken for the model, one that is left behind each time that a run is killed, and a next run
    that stumbles over it, or does not remove it. The last steps come when the folder is there already."""
    whole = run(*command, cache=tmp_path / "whole")
    for at in range(whole.steps):
        cache = tmp_path / str(at)
        assert run(*command, cache=cache, fault=signal.SIGKILL, at=at).returncode == -signal.SIGKILL
        run(*command, cache=cache, fault=signal.SIGKILL, at=at)
        assert len([*cache.glob(".*")]) <= 1
        run(*command, cache=cache)
        assert tree(cache) == tree(tmp_path / "whole"), at


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    os.truncate(file, 0)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("damage", [cut, empty, flip, remove])
def test_a_damaged_entry(damage, run, tiny_gguf, cache, tmp_path):
    """Catches an error that says not what to do, and a second import, or fetch, that is content with what is there."""
    folder = run("import", tiny_gguf, cache=cache).folder
    whole = tree(cache)
    for name in tree(folder):
        damage(folder / name)
        done = run("generate", "he", "--max-new-tokens", 2, "--kernels", "torch", "--model", folder, cache=cache)
        if damage is not flip and name in ("config.json", "model.safetensors", "tokenizer.json"):
            assert done.returncode
        if done.returncode:
            done.assert_one_line(f"{name} is no longer what was written", f"or delete {folder}")
        again = run("import", tiny_gguf, cache=cache)
        assert again.folder == folder
        if name == entry.SUMS:  # with a part of which there is less to compare with
            (folder / name).write_bytes(whole[f"{folder.name}/{name}"])
        else:
            assert f"{name} is damaged" in again.stderr
        assert tree(cache) == whole


def test_a_damaged_entry_that_cannot_be_made_anew(run, tiny_gguf, cache):
    """Catches the old folder removed before the new one is there: of most models a good part can still be used."""
    folder = run("import", tiny_gguf, cache=cache).folder
    flip(folder / "model.safetensors")
    before = tree(cache)
    run("import", tiny_gguf, cache=cache, largest=1000).assert_one_line("File too large")
    assert tree(cache) == before


@pytest.mark.parametrize("left", [False, True])
def test_a_read_only_cache(left, run, tiny_gguf, cache):
    """With and without what a killed run left beside the model. Catches a lock, or any other file, that reading needs;
    and a traceback where something new is wanted."""
    made = run("import", tiny_gguf, cache=cache).folder
    made.rename(cache / fetch.DEFAULT)
    if left:
        (cache / f".fetch-{fetch.DEFAULT}" / "folder").mkdir(parents=True)
    kept = tree(cache)
    for path in (*cache.glob(".*"), cache / fetch.DEFAULT, cache):
        path.chmod(0o555)
    try:
        done = run("generate", "he", "--max-new-tokens", 2, "--kernels", "torch", cache=cache, unprivileged=True)
        assert done.returncode == 0, done
        assert run("fetch", cache=cache, unprivileged=True).folder == cache / fetch.DEFAULT
        done = run("import", tiny_gguf, cache=cache, unprivileged=True)
        done.assert_one_line(f"cannot be written to {cache}", "Permission denied")
        assert tree(cache) == kept
    finally:
        for path in (cache, *cache.glob(".*")):
            path.chmod(0o755)


@pytest.mark.parametrize("arguments", [("fetch",), ("generate", "hi", "--kernels", "torch"), ("import", "model.gguf")])
def test_what_may_not_be_read(arguments, run, cache, tmp_path):
    """Catches the traceback of asking whether a file is there, in a folder that may not be looked into."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    arguments = [closed / word if word == "model.gguf" else word for word in arguments]
    run(*arguments, cache=closed / "cache", unprivileged=True).assert_one_line("Permission denied", str(closed))


def test_a_weight_file_that_may_not_be_read(run, tiny_gguf, cache):
    """Catches "no such file", which is what safetensors says."""
    folder = run("import", tiny_gguf, cache=cache).folder
    (folder / "model.safetensors").chmod(0)
    arguments = ("generate", "hi", "--kernels", "torch", "--model", folder)
    run(*arguments, cache=cache, unprivileged=True).assert_one_line("Permission denied", "model.safetensors")


def test_names_that_no_file_can_have(run, cache):
    """Catches the traceback of asking the system for them."""
    for arguments in (("generate", "hi", "--model", "a" * 300), ("import", "a" * 300 + ".gguf")):
        run(*arguments, cache=cache).assert_one_line("File name too long")


def test_full_where_stdout_goes(tmp_path):
    """Catches a traceback, and Python's second one at its end, when a file that stdout is sent to cannot grow."""
    (tmp_path / fetch.DEFAULT).mkdir()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pytriton_llama", "fetch"],
            env=os.environ | {"PYTRITON_LLAMA_CACHE": str(tmp_path), "PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (2, "error: [Errno 28] No space left on device: 'stdout'\n")
