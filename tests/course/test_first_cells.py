"""How notebooks begin: the badge and the install cell, with and without an address."""

import importlib.util
import shlex
import tomllib
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pytriton_llama.course.first_cells import begin, is_install, update

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted(path.relative_to(ROOT) for path in (ROOT / "notebooks").rglob("*.ipynb"))
LESSON, SOLUTION = Path("notebooks/03_rms_norm.ipynb"), Path("notebooks/solutions/03_rms_norm.ipynb")
WITHOUT = {key: value for key, value in PROJECT.items() if key != "urls"}


def project(address: str) -> dict:
    return {**PROJECT, "urls": {"Repository": address}}


def begun(place: Path, *projects: dict) -> nbformat.NotebookNode:
    """The committed notebook, begun for one project after the other."""
    notebook = nbformat.read(ROOT / place, as_version=4)
    for each in projects:
        begin(notebook, place, each)
    return notebook


def install(notebook: nbformat.NotebookNode) -> str:
    (cell,) = [cell for cell in notebook.cells if is_install(cell)]
    return cell.source


@pytest.mark.parametrize("place", NOTEBOOKS, ids=str)
def test_committed_notebooks_begin_as_pyproject_says(place):
    """Catches first cells lost when a notebook was made anew, and an address added without `make first-cells`."""
    assert begun(place, PROJECT) == begun(place)


@pytest.mark.parametrize("place", [LESSON, SOLUTION], ids=str)
def test_an_address_gives_badge_and_source(place):
    """Catches a badge that opens another notebook or stands outside the title cell, and one without an address."""
    title, page = begun(place).cells[0].source.split("\n")[0], f"/github/someone/course/blob/main/{place}"
    lines = begun(place, project("https://github.com/someone/course")).cells[0].source.split("\n")
    assert lines[:2] == [title, ""] and lines[3] == ""
    assert lines[2].startswith("[![Open in Colab](https://") and lines[2].endswith(f"research.google.com{page})")
    assert "colab" not in nbformat.writes(begun(place, WITHOUT)).lower()


def test_a_repository_elsewhere_gives_no_badge():
    """Catches a badge that leads to a page of Colab's which does not exist: it opens GitHub's files alone."""
    notebook = begun(LESSON, project("https://example.org/someone/course"))
    assert "Colab" not in notebook.cells[0].source
    assert "git+https://example.org/someone/course" in install(notebook)


@pytest.mark.parametrize("place", [LESSON, SOLUTION], ids=str)
def test_beginning_again_changes_nothing(place):
    """Catches a second badge or cell, counts raised twice, and anything left of an address that was taken out."""
    somewhere = project("https://github.com/someone/course")
    assert begun(place, somewhere, somewhere) == begun(place, somewhere)
    assert begun(place, somewhere, WITHOUT) == begun(place, WITHOUT)


def test_update_puts_the_cell_in_and_counts_the_rest_up(tmp_path):
    """Catches outputs that look run out of order, and files that are written although nothing changed."""
    result = new_output("execute_result", {"text/plain": "1"}, execution_count=1)
    cells = [new_markdown_cell("# 00 · A\n\nb"), new_code_cell("1", execution_count=1, outputs=[result])]
    path = tmp_path / "notebooks" / "00_a.ipynb"
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a"\n')
    update(tmp_path)
    _, first, second = nbformat.read(path, as_version=4).cells
    assert is_install(first) and first.execution_count == 1
    assert (second.execution_count, second.outputs[0].execution_count) == (2, 2)
    written = path.stat().st_mtime_ns
    update(tmp_path)
    assert path.stat().st_mtime_ns == written


@pytest.fixture
def shell():
    """IPython in which `%pip` only notes what it was given, in `shell.pip`."""
    shell = InteractiveShell()
    shell.pip = []
    shell.register_magic_function(lambda line: shell.pip.append(shlex.split(line)), magic_name="pip")
    return shell


def test_the_cell_is_silent_where_the_course_is_installed(shell, capsys):
    """Catches a cell that asks pip every time, which takes seconds and needs a network."""
    assert shell.run_cell(install(begun(LESSON))).success
    assert shell.pip == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize("place", [LESSON, SOLUTION], ids=str)
def test_the_cell_installs_the_checkout_around_the_notebook(shell, monkeypatch, place):
    """Catches a folder too few or too many, and an extra that the shell takes for a pattern of file names."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert shell.run_cell(install(begun(place, WITHOUT))).success
    [(*options, what)] = shell.pip
    folder, extra = what.split("[")
    assert options == ["install", "--quiet", "--editable"] and extra == "course]"
    assert (ROOT / place.parent / folder).resolve() == ROOT


def test_the_cell_installs_from_the_address(shell, monkeypatch):
    """Catches an address cut at its `#` by the shell, and a course without what its notebooks import."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert shell.run_cell(install(begun(LESSON, project("https://github.com/someone/course")))).success
    [(*options, source)] = [line[:4] for line in shell.pip]
    assert options == ["install", "--quiet", "--editable"]
    assert source == "git+https://github.com/someone/course#egg=pytriton_llama"
    assert shell.pip[0][4:] == PROJECT["optional-dependencies"]["course"]
