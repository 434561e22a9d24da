"""The lock files, environment.yml and pyproject.toml agree, and a reader's install of them works."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pytriton_llama.toolchain import missing_for_triton

ROOT = Path(__file__).parent.parent
LOCKS = ["requirements-cpu.lock", "requirements-gpu.lock"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lock_lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    return {canonicalize_name(project): version for project, version in (line.split("==") for line in lock_lines(name))}


def is_gpu_stack(project: str) -> bool:
    """torch, triton and CUDA's libraries: gigabytes that the tests never install."""
    return project in ("torch", "triton") or project.startswith(("nvidia-", "cuda-"))


def test_environment_yml_has_no_pins_of_its_own():
    """Catches a second list of versions, which would drift from the lock, and a lock that isn't installed."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "pytriton_llama"
    assert environment["dependencies"] == [
        "python=3.12",
        "pip",
        {"pip": ["-r requirements-gpu.lock", "-e .[course,test]"]},
    ]


def test_locks_pin_the_intended_torch():
    """Catches a lock remade with whatever torch was newest, or frozen from a CPU wheel as ``2.13.0+cpu``."""
    gpu, cpu = pins("requirements-gpu.lock"), pins("requirements-cpu.lock")
    assert (gpu["torch"], gpu["triton"], gpu["numpy"]) == ("2.11.0", "3.6.0", "2.3.5")
    assert (cpu["torch"], cpu["triton"]) == ("2.13.0", "3.7.1")


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_are_plain_pins(lock):
    """Catches `pip freeze` leftovers (``-e /home/x``, ``x @ file:...``, ``+cpu``), index options, hashes."""
    assert not re.search(r"://|--(hash|index|extra-index|find-links)", (ROOT / lock).read_text())
    odd = [line for line in lock_lines(lock) if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not odd
    assert len(pins(lock)) == len(lock_lines(lock)), "a project is pinned twice"


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_pin_every_declared_dependency(lock):
    """Catches a dependency added to pyproject.toml alone, and a pin outside the range declared there."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    declared = sum(extras, project["dependencies"] + PYPROJECT["build-system"]["requires"])
    pinned = pins(lock)
    for requirement in map(Requirement, declared):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock} does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{lock} pins {version}, but pyproject wants {requirement}"


def test_locks_differ_only_around_torch():
    """Catches one lock remade without the other: CPU and GPU readers would then run different courses."""
    gpu, cpu = pins("requirements-gpu.lock"), pins("requirements-cpu.lock")
    # numpy as on the GPU machine; torch 2.11 needs setuptools < 82, which newer torch no longer does.
    differ = {project for project in gpu.keys() | cpu.keys() if gpu.get(project) != cpu.get(project)}
    assert {project for project in differ if not is_gpu_stack(project)} == {"numpy", "setuptools"}


@pytest.fixture
def fake_machine(tmp_path, monkeypatch):
    """A function that puts the named compilers and, or not, Python.h in place of the machine's own."""

    def machine(*compilers: str, header: bool = True) -> None:
        for name in compilers:
            (tmp_path / name).touch(mode=0o755)
        if header:
            (tmp_path / "Python.h").touch()
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))

    return machine


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_toolchain_complete(fake_machine, compiler):
    """Catches a check for one compiler only."""
    fake_machine(compiler)
    assert missing_for_triton() is None


def test_toolchain_names_what_is_missing(fake_machine):
    """Catches a check that stops at the first thing missing, or takes `cc`, which Triton ignores."""
    fake_machine("cc", header=False)
    complaint = missing_for_triton()
    assert complaint and "\n" not in complaint
    assert "gcc" in complaint and f"python3.{sys.version_info.minor}-dev" in complaint


@pytest.mark.parametrize(("cc", "missing"), [("my-cc", False), ("no-such-cc", True)])
def test_toolchain_follows_cc(fake_machine, monkeypatch, cc, missing):
    """Catches a check that falls back to gcc although Triton takes ``$CC`` and nothing else."""
    fake_machine("gcc" if missing else "my-cc")
    monkeypatch.setenv("CC", cc)
    assert (missing_for_triton() is not None) == missing


def test_toolchain_imports_neither_torch_nor_triton():
    """Catches an import that makes `make setup` slow, or fail where torch cannot be loaded."""
    script = "import runpy, sys; runpy.run_path(sys.argv[1]); assert not {'torch', 'triton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script, ROOT / "pytriton_llama" / "toolchain.py"], check=True)


def test_a_readers_install_collects_the_notebooks(tmp_path):
    """What `conda env create` does with environment.yml, down to a notebook cell that can be run.

    Catches a lock that contradicts itself or lacks a wheel, a package that cannot be built from a copy, and a
    course that only works with what happens to be installed on its authors' machine. Needs the network.
    """
    # The Python is the one that runs this test, not conda's 3.12. torch, triton and CUDA's libraries are
    # gigabytes: the running environment lends them, and nothing else of it is visible in the new one.
    tree, environment, lent = tmp_path / "tree", tmp_path / "env", tmp_path / "lent"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests"))
    lock = tree / "requirements-gpu.lock"
    lock.write_text("\n".join(f"{p}=={v}" for p, v in pins(lock.name).items() if not is_gpu_stack(p)))

    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    lent.mkdir()
    for distribution in importlib.metadata.distributions():
        if is_gpu_stack(canonicalize_name(distribution.name)):
            for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
                if not (lent / top).exists():
                    (lent / top).symlink_to(str(distribution.locate_file(top)))
    site_packages = next((environment / "lib").glob("python*/site-packages"))
    (site_packages / "lent.pth").write_text(f"{lent}\n")

    entries = yaml.safe_load((tree / "environment.yml").read_text())["dependencies"][-1]["pip"]
    arguments = [word for entry in entries for word in entry.split()]
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-compile", "--only-binary=:all:", *arguments], check=True, cwd=tree
    )
    subprocess.run([*pip, "check"], check=True)

    collect = [python, "-m", "pytest", "--nbval", "notebooks/", "--collect-only"]
    cells = subprocess.run(collect, check=True, cwd=tree, stdout=subprocess.PIPE, text=True).stdout
    assert re.search(r"\d+ tests collected", cells)
    where = "import pytriton_llama, torch, triton; print(pytriton_llama.__file__)"
    out = subprocess.run([python, "-c", where], check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True).stdout
    assert out.startswith(str(tree))
