"""How every notebook begins: the badge below its title, and the cell that installs the course where it is missing.

Both follow from ``project.urls.Repository`` in pyproject.toml; ``make first-cells`` writes them again. A repository on
GitHub gives a badge that opens the notebook in Colab; without an address there is none, and the cell installs the
checkout that the notebook lies in.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from pytriton_llama.bench.settings import ROOT

GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com"
_BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n", re.MULTILINE)

# Editable: what was recorded lies beside the package, and a changed checkout is what runs. A kernel reads at its start
# what is installed so, hence site.main().
_INSTALL = """\
# Installs the course where it is missing.
import importlib.util, site
if importlib.util.find_spec("pytriton_llama") is None:
    %pip install --quiet --editable {what}
    site.main()"""


def update(root: Path = ROOT) -> None:
    """Write the first cells of every notebook below ``root``; files that have them already are not touched."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in sorted((root / "notebooks").rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        begin(notebook, path.relative_to(root), project)
        if nbformat.writes(notebook) != before:
            nbformat.write(notebook, path)


def begin(notebook: NotebookNode, place: Path, project: dict[str, Any]) -> None:
    """Put badge and install cell into a notebook, in place of those that it has.

    Args:
        notebook: its first cell is the title; changed in place.
        place: the notebook's path in the repository.
        project: pyproject.toml's table of that name.
    """
    address = project.get("urls", {}).get("Repository", "")
    cells = notebook.cells
    heading, text = _BADGE.sub("", cells[0].source).split("\n\n", 1)
    cells[0].source = f"{heading}\n\n{badge(address, place)}{text}"
    first = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
    if not is_install(cells[first]):
        _count_up(cells)
        cells.insert(first, new_code_cell(id="install", execution_count=1))
    cells[first].source = _INSTALL.format(what=_what(address, place, project))


def is_install(cell: NotebookNode) -> bool:
    """Whether this is the cell that installs the course."""
    return cell.source.startswith(_INSTALL.split("\n")[0])


def badge(address: str, place: Path) -> str:
    """A paragraph that opens the notebook in Colab, which reads from GitHub alone; else nothing."""
    if not address.startswith(GITHUB):
        return ""
    page = f"{COLAB}/github/{address.removeprefix(GITHUB)}/blob/main/{place.as_posix()}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({page})\n\n"


def _what(address: str, place: Path, project: dict[str, Any]) -> str:
    """What pip is to install: from an address, pip takes no extra together with ``--editable``."""
    if address:
        return f'"git+{address}#egg={project["name"]}" {" ".join(project["optional-dependencies"]["course"])}'
    return f'"{"/".join([".."] * len(place.parts[:-1]))}[course]"'


def _count_up(cells: list[NotebookNode]) -> None:
    """A cell comes first: the others are executed one later."""
    for cell in cells:
        for counted in [cell, *cell.get("outputs", [])]:
            if counted.get("execution_count"):
                counted.execution_count += 1


if __name__ == "__main__":
    update()
