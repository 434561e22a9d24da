"""Broken and hostile checkpoints: one clear line each, in bounded time and memory, and nothing of theirs is run."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytriton_llama.errors import LlamaError
from pytriton_llama.llama import checkpoint, gguf
from pytriton_llama.llama.config import LlamaConfig
from tests.llama import broken


def load(path: Path) -> None:
    """As ``Llama.from_pretrained`` does, up to the weights."""
    if path.suffix == ".gguf":
        gguf.convert(path, path.with_name("converted"))
    else:
        checkpoint.load(path, LlamaConfig.from_folder(path), "cpu", torch.float32)


@pytest.mark.parametrize("name", broken.CASES)
def test_one_clear_line(name, tmp_path):
    """Each would otherwise be a traceback, a crash of the process, an endless loop, or a wrong model."""
    path = broken.make(name, tmp_path)
    with pytest.raises(LlamaError, match=broken.CASES[name][1]) as caught:
        load(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1100


# What runs the program on each path, allowed a gigabyte of address space beyond what its imports took.
PROGRAM = """
import contextlib, io, json, resource, sys, time
from pytriton_llama import cli
from pytriton_llama.llama import generator, gguf, gguf_reader
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30),) * 2)
for path in json.load(sys.stdin):
    sys.argv = ["pytriton-llama", "generate", "hi", "--kernels", "torch", "--model", path]
    out, err, start, code = io.StringIO(), io.StringIO(), time.perf_counter(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code
    print(json.dumps([code, out.getvalue(), err.getvalue(), time.perf_counter() - start]))
"""


def test_the_program_ends_with_code_2(tmp_path):
    """Catches a traceback, a second line, memory that a file of some bytes takes, and remains in the cache."""
    paths = [broken.make(name, tmp_path / str(i)) for i, name in enumerate(broken.CASES)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTRITON_LLAMA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        input=json.dumps(list(map(str, paths))),
        capture_output=True,
        text=True,
        timeout=300,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(paths), done.stderr
    for (name, (_, message)), (code, out, err, _) in zip(broken.CASES.items(), results, strict=True):
        assert (code, out) == (2, ""), (name, err)
        assert re.fullmatch(f"error: .*{message}.*\n", err), (name, err)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cast_that_overflows(tmp_path):
    """Catches a check before the cast: 1e30 is a float32, and infinite as a float16."""
    broken.save_tiny(tmp_path)
    broken.put(broken.NORM, torch.full((48,), 1e30))(tmp_path)
    config = LlamaConfig.from_folder(tmp_path)
    checkpoint.load(tmp_path, config, "cpu", torch.float32)
    with pytest.raises(LlamaError, match=rf"{broken.NORM} holds NaN or infinite values \(as float16\)"):
        checkpoint.load(tmp_path, config, "cpu", torch.float16)


def test_links_within_the_hub_s_own_cache(tmp_path):
    """Its snapshots are links to files beside them. Catches them refused with those that lead anywhere else."""
    snapshot, blobs = tmp_path / "snapshots" / "0123", tmp_path / "blobs"
    blobs.mkdir()
    broken.save_tiny(snapshot, "20KB")
    for i, file in enumerate(snapshot.glob("*.safetensors")):
        file.symlink_to(file.rename(blobs / str(i)))
    load(snapshot)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    """The files of small valid checkpoints, by name."""
    folder = tmp_path_factory.mktemp("good")
    broken.save_tiny(folder)
    broken.write_tiny(folder / broken.GGUF, broken.tiny_weights())
    return {name: (folder / name).read_bytes() for name in ("config.json", broken.SINGLE, broken.GGUF)}


def damage(data: bytes, draw: random.Random) -> bytes:
    """Flips some bytes, mostly of the beginning, where a file says what it holds; or cuts it."""
    if draw.random() < 0.2:
        return data[: draw.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        changed[draw.randrange(draw.choice([32, 512, 4096, len(data)])) % len(data)] = draw.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("name", ["config.json", broken.SINGLE, broken.GGUF])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_random_damage_loads_or_is_refused(name, good, seed, tmp_path):
    """Whatever bytes a file has: a model or a LlamaError, and no other exception."""
    for file, data in good.items():
        (tmp_path / file).write_bytes(damage(data, random.Random(seed)) if file == name else data)
    try:
        load(tmp_path / name if name == broken.GGUF else tmp_path)
    except LlamaError as error:
        assert str(error).isprintable()
