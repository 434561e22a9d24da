"""What no committed notebook may contain, and what every lesson must have. Whether its outputs are right is for
``pytest --nbval notebooks/`` to say.

Each check is a function from a notebook to its complaints. It is run over every notebook, and over a small good one
into which a single fault was planted: that very check must complain, and no other.
"""

import json
import re
import statistics
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pytriton_llama.course.first_cells import begin, is_install

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
MAX_OUTPUT_BYTES = 2**20

# Lessons follow the course's template.
LESSONS = [path for path in NOTEBOOKS if path.parent.name == "notebooks"]
LONG = ("02_linear", "07_flash_attention", "08_flash_decoding", "11_llama_generator")  # may have more cells and words

Check = Callable[[NotebookNode, Path], list[str]]

# A path that starts at the root: under a folder that machines have, or anything of two parts. Not a URL's path, a
# fraction (tokens/s), a relative path or a closing tag.
_MACHINE_PATH = re.compile(
    r"(?<![\w.:/<~)\]}-])/(?:(?:home|root|tmp|usr|var|opt|mnt|srv|work|workspace|content|Users)\b|[\w.-]+/[\w.-])"
    r"|\b[A-Z]:\\\w\w"
)
_CODE_IN_MARKDOWN = re.compile(r"```.*?```|~~~.*?~~~|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(
    r"\]\(\s*<?([^)>\s]+)[^)]*\)|\b(?:src|href)\s*=\s*[\"']([^\"']+)[\"']|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE
)
_REMOTE = re.compile(r"(?:https?|mailto|attachment|data):|#")


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """The code cells that have code, with their places in the notebook."""
    return [(i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "code" and c.source.strip()]


def outputs(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, output) for i, cell in code_cells(notebook) for output in cell.outputs]


def texts(output: NotebookNode) -> list[str]:
    """What a reader can read in an output; base64 of pictures is not text."""
    data = output.get("data", {})
    found = [v if isinstance(v, str) else json.dumps(v) for k, v in data.items() if k != "image/png"]
    return [*found, output.get("text", ""), *output.get("traceback", [])]


def unexecuted(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a cell that was edited or added and then committed without running it: its reader sees no result."""
    return [f"cell {i} was not executed" for i, c in code_cells(notebook) if c.execution_count is None]


def out_of_order(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches outputs of a session in which cells were run twice or in another order: they may not come again."""
    counts = [c.execution_count for _, c in code_cells(notebook)]
    # A cell that was not executed is the check above's.
    wrong = any(count not in (n, None) for n, count in enumerate(counts, 1))
    return [f"execution counts are {counts}, not 1, 2, 3, …"] if wrong else []


def errors(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a traceback committed as an output; strict nbval would even insist on it."""
    return [f"cell {i} ended in {o.ename}" for i, o in outputs(notebook) if o.output_type == "error"]


def machine_paths(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a warning or a repr that tells where its author's files lie; it differs on every machine."""
    return [
        f"cell {i} shows a path of one machine: {found[0]}"
        for i, output in outputs(notebook)
        for text in texts(output)
        if (found := _MACHINE_PATH.search(text))
    ]


def large_outputs(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a picture of too many dots, or an interactive one with its library inside: every clone carries it."""
    sizes = [(i, len(json.dumps(output, ensure_ascii=False).encode())) for i, output in outputs(notebook)]
    return [f"cell {i} has an output of {size} bytes" for i, size in sizes if size > MAX_OUTPUT_BYTES]


def dead_links(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a link to a file that was renamed, not written yet, or present on the author's machine alone."""
    complaints = []
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        # `kernel[grid](x)` in code is no link.
        for match in _LINK.finditer(_CODE_IN_MARKDOWN.sub("", cell.source)):
            target = match[1] or match[2] or match[3]
            if _REMOTE.match(target):
                continue
            file = (path.parent / unquote(target.split("#")[0])).resolve()
            if not file.exists() or not file.is_relative_to(ROOT):
                complaints.append(f"cell {i} links to {target}, which is not in the repository")
    return complaints


def unshown_figures(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a plot that ends in ``ax.plot(…)``: nbval compares the list of lines shown beside it, address and all."""
    return [
        f"cell {i} makes a figure but does not end in plt.show()"
        for i, cell in code_cells(notebook)
        if any(k.startswith("image/") for o in cell.outputs for k in o.get("data", {}))
        and cell.source.rstrip().splitlines()[-1].strip() != "plt.show()"
    ]


def mostly_ignored(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a notebook made green by taking its outputs out of the comparison. Silent cells don't count."""
    shown = [c for _, c in code_cells(notebook) if c.outputs]
    marks = re.compile(r"^\s*#\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE_IGNORE_OUTPUT)\b", re.MULTILINE)
    ignored = sum(
        bool({"nbval-ignore-output", "nbval-skip"} & set(c.metadata.get("tags", [])) or marks.search(c.source))
        for c in shown
    )
    compared = len(shown) - ignored
    return [f"{ignored} outputs are ignored, only {compared} compared"] if shown and ignored >= compared else []


def timings(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches times of execution in the metadata: running the notebook again would change every cell."""
    return [f"cell {i} keeps its times of execution" for i, c in code_cells(notebook) if "execution" in c.metadata]


# ------------------------------------------------------------------------------------------------ lessons


def prose(notebook: NotebookNode) -> str:
    """What a reader reads between code, without markup of HTML, links' targets, pictures, and fenced code."""
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    text = re.sub(r"```.*?```|<[^>]+>|!\[[^\]]*\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)", "]", text)


def headings(notebook: NotebookNode, level: int) -> list[str]:
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    return re.findall(rf"^{'#' * level} (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)


def title(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a notebook renumbered in its name alone, and a second heading of the first rank."""
    first = notebook.cells[0].source.split("\n")[0]
    good = first.startswith(f"# {path.stem[:2]} · ") and len(headings(notebook, 1)) == 1
    return [] if good else [f"the first line is {first!r}, not the only title '# {path.stem[:2]} · …'"]


def numbering(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a section inserted or taken out without renumbering the rest; the text refers to sections by number."""
    numbers = [found[1] for text in headings(notebook, 2) if (found := re.match(r"(\d+) · ", text))]
    right = [str(i) for i in range(1, len(numbers) + 1)]
    unnumbered = [text for text in headings(notebook, 2) if not re.match(r"\d+ · ", text)]
    complaints = [] if numbers == right and numbers else [f"sections are numbered {', '.join(numbers)}"]
    return complaints + [f"section {text!r} has no number" for text in unnumbered if text != "Recap"]


def recap(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a notebook that just ends."""
    last = notebook.cells[-1]
    good = last.cell_type == "markdown" and last.source.startswith("## Recap") and "\n1. " in last.source
    return [] if good else ["the last cell is no recap in numbered lines"]


def neighbours(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a lesson put between two others that still link past it."""
    order = sorted({p.name for p in NOTEBOOKS if p.parent.name == "notebooks"} | {path.name})
    at = order.index(path.name)
    wanted = {"first": order[at - 1] if at else None, "last": order[at + 1] if at + 1 < len(order) else None}
    cells = {"first": notebook.cells[0].source, "last": notebook.cells[-1].source}
    return [
        f"its {where} cell does not link to {name}"
        for where, name in wanted.items()
        if name and f"]({name})" not in cells[where]
    ]


def solutions(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches exercises without worked answers, and answers that the notebook doesn't lead to."""
    graded = any("grade(" in c.source for _, c in code_cells(notebook))
    linked = f"](solutions/{path.name})" in "".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    return [] if graded and linked else ["no exercise is graded, or its solutions are not linked"]


def length(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a lesson that grew past what one sitting takes, or is too thin to derive anything."""
    words = len([word for word in prose(notebook).split() if re.search(r"\w", word)])
    cells = len([cell for cell in notebook.cells if not is_install(cell)])
    most_cells, most_words = (90, 3500) if path.stem in LONG else (60, 1800)
    complaints = [] if 35 <= cells <= most_cells else [f"{cells} cells, not 35 to {most_cells}"]
    return complaints + ([] if 1000 <= words <= most_words else [f"{words} words of prose, not 1000 to {most_words}"])


def long_code(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches cells that do several things at once. Only a kernel may be longer than 40 lines."""
    lines = [(i, c.source.count("\n") + 1, "@triton.jit" in c.source) for i, c in code_cells(notebook)]
    median = statistics.median(n for _, n, _ in lines)
    complaints = [f"cell {i} has {n} lines" for i, n, kernel in lines if n > 40 and not kernel]
    return complaints + ([f"the median code cell has {median} lines"] if median > 10 else [])


def setup(notebook: NotebookNode, path: Path) -> list[str]:
    """Catches a triton imported before the package has decided how it runs, and harness code ahead of the lesson."""
    (_, install), (_, first) = code_cells(notebook)[:2]
    good = is_install(install) and first.source.startswith("import pytriton_llama") and first.source.count("\n") < 6
    return [] if good else ["no install cell, then a setup of at most 6 lines that imports pytriton_llama first"]


LESSON_CHECKS: list[Check] = [title, numbering, recap, neighbours, solutions, length, long_code, setup]

CHECKS: list[Check] = [
    unexecuted,
    out_of_order,
    errors,
    machine_paths,
    large_outputs,
    dead_links,
    unshown_figures,
    mostly_ignored,
    timings,
]


def test_there_are_notebooks():
    """Catches a moved folder, in which every check below would pass over nothing."""
    assert NOTEBOOKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, check: Check):
    """Catches what the check's own docstring says."""
    assert check(nbformat.read(path, as_version=4), path) == []


@pytest.mark.parametrize("check", LESSON_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson(path: Path, check: Check):
    """Catches what the check's own docstring says."""
    assert check(nbformat.read(path, as_version=4), path) == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson_has_solutions(path: Path):
    """Catches exercises without answers, and answers that are not graded or not right."""
    answers = nbformat.read(path.parent / "solutions" / path.name, as_version=4)
    asked = set(re.findall(r"grade\(\w+, (\S+)\)", "".join(c.source for _, c in code_cells(nbformat.read(path, 4)))))
    printed = "".join(text for _, output in outputs(answers) for text in texts(output))
    assert asked and all(f"☑ {key.strip(chr(34))} " in printed for key in asked) and "☐" not in printed


def good() -> NotebookNode:
    """Passes every check, with what a careless check would take for a fault."""
    prose = (
        "[there](../README.md#first), [far](https://example.org/a/b), [here](#top), `kernel[grid](x)`\n\n"
        "```python\nkernel[grid](x)\n```\n"
    )
    text = "5 tokens/s, 1/2, ../relative/path, ~/.cache/x, https://example.org/tmp/x and </b></i>\n"
    figure = new_output("display_data", {"image/png": "aaaa/tmp/", "text/plain": "<Figure size 640x480>"})
    cells = [
        new_markdown_cell(prose),
        new_code_cell("x = 1", execution_count=1),
        new_code_cell("print(text)", execution_count=2, outputs=[new_output("stream", text=text)]),
        new_code_cell("plt.plot(x)\nplt.show()", execution_count=3, outputs=[figure]),
        new_code_cell("print(t)", execution_count=4, outputs=[new_output("stream", text="0.1 s\n")]),
        new_code_cell("", execution_count=None),
    ]
    cells[4].metadata["tags"] = ["nbval-ignore-output"]
    return new_notebook(cells=cells)


def _set(cell: int, **values) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells[cell].update(values)


def _print(text: str) -> Callable[[NotebookNode], None]:
    return _set(2, outputs=[new_output("stream", text=text)])


FAULTS: list[tuple[Check, str, Callable[[NotebookNode], None]]] = [
    (unexecuted, "never run", _set(1, execution_count=None)),
    (out_of_order, "run again", _set(1, execution_count=7)),
    (out_of_order, "swapped", lambda n: (_set(1, execution_count=2)(n), _set(2, execution_count=1)(n))[0]),
    (errors, "traceback", _set(2, outputs=[new_output("error", ename="E", evalue="", traceback=["E"])])),
    (machine_paths, "home", _print("loaded from /home/me\n")),
    (machine_paths, "kernel's temporary file", _print("/tmp/ipykernel_1/2.py:3: UserWarning\n")),
    (machine_paths, "in quotes", _print("PosixPath('/data/models/x')\n")),
    (machine_paths, "Windows", _print("C:\\Users\\me\n")),
    (machine_paths, "a repr", _set(2, outputs=[new_output("display_data", {"text/html": "<b>/root/x</b>"})])),
    (large_outputs, "1 MB and more", _print("x" * (MAX_OUTPUT_BYTES + 1))),
    (dead_links, "missing file", _set(0, source="[next](12_nothing.ipynb)")),
    (dead_links, "by reference", _set(0, source="[next][1]\n\n[1]: 12_nothing.ipynb")),
    (dead_links, "missing picture", _set(0, source='<img src="figures/nothing.png">')),
    (dead_links, "outside the repository", _set(0, source="[x](../..)")),
    (unshown_figures, "ends in a plot", _set(3, source="plt.show()\nplt.plot(x)")),
    (unshown_figures, "ends in a semicolon", _set(3, source="plt.show();")),
    (mostly_ignored, "as many as compared", _set(3, metadata={"tags": ["nbval-skip"]})),
    (mostly_ignored, "by a comment", _set(2, source="# NBVAL_IGNORE_OUTPUT\nprint(text)")),
    (timings, "nbclient's", _set(2, metadata={"execution": {"shell.execute_reply": "2020-01-01T00:00:00Z"}})),
]


def test_a_good_notebook_has_no_complaints():
    """Catches a check that is too eager: a URL's path or tokens/s as a machine's path, a launch as a link."""
    path = ROOT / "notebooks" / "good.ipynb"
    assert [complaint for check in CHECKS for complaint in check(good(), path)] == []


@pytest.mark.parametrize(
    ("check", "plant"),
    [(check, plant) for check, _, plant in FAULTS],
    ids=[f"{check.__name__}: {name}" for check, name, _ in FAULTS],
)
def test_a_planted_fault_is_caught(check: Check, plant: Callable[[NotebookNode], None]):
    """Catches a check that has gone blind, and one that complains about what is another's to say."""
    notebook = deepcopy(good())
    plant(notebook)
    path = ROOT / "notebooks" / "bad.ipynb"
    assert {c.__name__ for c in CHECKS if c(notebook, path)} == {check.__name__}


LESSON = ROOT / "notebooks" / f"{LESSONS[0].stem[:2]}_z_lesson.ipynb"  # comes after the first


def good_lesson() -> NotebookNode:
    """Passes every check of lessons, with what a careless check would take for a fault."""
    number = LESSON.stem[:2]
    before, after = LESSONS[0].name, sorted(p.name for p in NOTEBOOKS if p.name > LESSON.name)[0]
    cells = [
        new_markdown_cell(
            f"# {number} · A lesson\n\nBefore: [a]({before}).\n\n```\n# a comment, ## 7 · no heading\n```"
        ),
        new_code_cell("import pytriton_llama\nimport torch"),
        new_markdown_cell("## 1 · First"),
        *(new_code_cell("x = 1") for _ in range(16)),
        *(new_markdown_cell("word " * 70) for _ in range(15)),
        new_code_cell("\n".join(["@triton.jit", *["    x"] * 50])),
        new_markdown_cell(f"## 2 · Exercises\n\n### a\n\n[answers](solutions/{LESSON.name})"),
        new_code_cell('grade(f, "00.a")'),
        new_markdown_cell(f"## Recap\n\n1. One.\n\nNext: [b]({after})."),
    ]
    lesson = new_notebook(cells=cells)
    begin(lesson, LESSON.relative_to(ROOT), {})
    return lesson


def _replace(old: str, new: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        assert any(old in cell.source for cell in notebook.cells)
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)

    return plant


LESSON_FAULTS: list[tuple[Check, str, Callable[[NotebookNode], None]]] = [
    (title, "another number", _replace(" · A lesson", "1 · A lesson")),
    (title, "twice", _replace("## 1 · First", "# Once more\n\n## 1 · First")),
    (numbering, "one left out", _replace("## 2 · Ex", "## 3 · Ex")),
    (numbering, "without a number", _replace("## 2 · Ex", "## Ex")),
    (recap, "cut off", _replace("1. One.", "One.")),
    (recap, "ends in code", lambda n: n.cells.append(new_markdown_cell(n.cells[-1].source.replace("## Recap", "")))),
    (neighbours, "skips the next", _replace("Next: [b](", "Next: [b](x")),
    (neighbours, "skips the one before", _replace("[a](", "[a](x")),
    (solutions, "not linked", _replace("](solutions/", "](solved/")),
    (solutions, "nothing graded", _replace("grade(", "print(")),
    (length, "too many cells", lambda n: n.cells.__setitem__(slice(4, 4), [new_code_cell("x = 1")] * 30)),
    (length, "too few words", _replace("word word ", "word ")),
    (length, "too many words", _replace("word ", "word and ")),
    (long_code, "not a kernel", _replace("@triton.jit", "if True:")),
    (long_code, "everywhere", _replace("x = 1", "x = 1" + "\nx = 2" * 10)),
    (setup, "triton first", _replace("import pytriton_llama\nimport torch", "import triton, pytriton_llama")),
    (setup, "long", _replace("import torch", "import torch" + "\nx" * 6)),
    (setup, "nothing installed", lambda n: n.cells.pop(1)),
]


def test_a_good_lesson_has_no_complaints():
    """Catches a check that is too eager: comments in fenced code as headings, a long kernel as a long cell."""
    assert [complaint for check in LESSON_CHECKS for complaint in check(good_lesson(), LESSON)] == []


@pytest.mark.parametrize(
    ("check", "plant"),
    [(check, plant) for check, _, plant in LESSON_FAULTS],
    ids=[f"{check.__name__}: {name}" for check, name, _ in LESSON_FAULTS],
)
def test_a_fault_planted_in_a_lesson_is_caught(check: Check, plant: Callable[[NotebookNode], None]):
    """Catches a check that has gone blind, and one that complains about what is another's to say."""
    notebook = good_lesson()
    plant(notebook)
    assert {c.__name__ for c in LESSON_CHECKS if c(notebook, LESSON)} == {check.__name__}


def test_every_check_has_a_planted_fault():
    """Catches a check added without showing that it can fail."""
    assert {check.__name__ for check, _, _ in FAULTS} == {check.__name__ for check in CHECKS}
    assert {check.__name__ for check, _, _ in LESSON_FAULTS} == {check.__name__ for check in LESSON_CHECKS}
