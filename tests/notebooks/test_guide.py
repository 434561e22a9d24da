"""The guide to the course, notebooks/README.md: what it names exists, and says so."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from tests.notebooks.test_hygiene import dead_links

GUIDE = Path(__file__).parents[2] / "notebooks" / "README.md"
TEXT = GUIDE.read_text(encoding="utf-8")
NOTEBOOKS = {path.stem[:2]: path for path in sorted(GUIDE.parent.glob("*.ipynb"))}
ROWS = re.findall(r"^\| \[(\w+)\]\((\S+)\) \| ([^|]+) \|", TEXT, re.MULTILINE)
GLOSSARY = [" ".join(entry.split()) for entry in TEXT.split("## Glossary")[1].split("\n- ")[1:]]
TERMS = [
    (number, term)
    for entry in GLOSSARY
    for terms, numbers in re.findall(r"((?:\*\*[^*]+\*\*,? )+)((?:\[\d\d\],? ?)+)", entry)
    for number in re.findall(r"\d\d", numbers)
    for term in re.findall(r"\*\*([^*]+)\*\*", terms)
]


def prose(number: str) -> str:
    cells = nbformat.read(NOTEBOOKS[number], as_version=4).cells
    return " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())


def anchors(markdown: str) -> list[str]:
    """The headings' anchors, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found]


def test_links_lead_somewhere():
    """Catches a notebook renamed without its guide, and a section renamed under a link to it."""
    assert dead_links(new_notebook(cells=[new_markdown_cell(TEXT)]), GUIDE) == []
    for file, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", TEXT):
        assert anchor in anchors((GUIDE.parent / file).read_text(encoding="utf-8") if file else TEXT)


def test_the_path_names_every_notebook():
    """Catches a notebook added without a place on the path, or listed under a file that is another's."""
    assert [file for _, file, _ in ROWS] == [path.name for path in NOTEBOOKS.values()]
    assert all(name == Path(file).stem for name, file, _ in ROWS)


@pytest.mark.parametrize(("file", "needs"), [(file, needs) for _, file, needs in ROWS])
def test_what_a_notebook_builds_on_is_what_it_says(file, needs):
    """Catches a path that contradicts the notebooks' own first cells."""
    first = nbformat.read(GUIDE.parent / file, as_version=4).cells[0].source
    assert all(f"({NOTEBOOKS[number].name})" in first for number in re.findall(r"\d\d", needs))


def test_the_glossary_is_sorted():
    """Catches an entry put in where nobody looks for it, and a term explained twice."""
    words = [re.findall(r"\*\*([^*]+)\*\*", entry)[0].lower() for entry in GLOSSARY]
    assert words == sorted(set(words))


@pytest.mark.parametrize(("number", "term"), TERMS)
def test_a_term_stands_in_its_notebook(number, term):
    """Catches an entry whose notebook uses another word by now, or is another."""
    assert term.lower() in prose(number).lower()


def test_every_entry_names_its_notebook():
    """Catches an entry that the test above passes over."""
    assert {re.findall(r"\*\*([^*]+)\*\*", entry)[0] for entry in GLOSSARY} <= {term for _, term in TERMS}
