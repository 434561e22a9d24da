"""Plots and README tables, made from CSVs."""

import dataclasses
import sys

import pytest

from pytriton_llama.bench import figures, results, settings
from pytriton_llama.bench.cases import CASES
from pytriton_llama.bench.plot import DPI, SIZE, STYLES, plot
from pytriton_llama.errors import LlamaError

README = "before\n<!-- bench:softmax-performance -->\nno figures yet\n<!-- /bench -->\nafter\n"


def test_plot(recorded, tmp_path):
    """Catches a plot that does not render, changes size with its contents, or leaves a contender out."""
    image = pytest.importorskip("matplotlib.image")
    for op in ("softmax", "rotary_embedding", "ceiling_matmul"):
        case = CASES[op]
        plot(case, recorded(case), tmp_path / f"{op}.png")
        pixels = image.imread(tmp_path / f"{op}.png")
        assert pixels.shape[:2] == (round(SIZE[1] * DPI), round(SIZE[0] * DPI))
        assert pixels[0, 0].tolist() == [1, 1, 1, 1]


def test_panels_share_an_axis_that_holds_both(recorded, tmp_path, monkeypatch):
    """Catches an axis fixed before the second panel had its lines, and one that does not start at 0."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    made = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *_, **__: made.append(self))
    case = CASES["softmax"]
    rows = [
        dataclasses.replace(row, rate="5000.000") if row.dtype == "bf16" and row.contender == "torch" else row
        for row in recorded(case)
    ]
    plot(case, rows, tmp_path / "x.png")
    assert isinstance(made[0], figure) and len(made[0].axes) == 2
    for panel in made[0].axes:
        assert panel.get_ylim()[0] == 0 and panel.get_ylim()[1] > 5000


def test_lines_differ_without_colour():
    """Catches two contenders of one plot that a black and white print cannot tell apart, or that have no style."""
    for case in CASES.values():
        styles = [STYLES[name] for name in case.contenders()]
        assert len({style["marker"] for style in styles}) == len(styles)
        assert len({str(style["linestyle"]) for style in styles}) == len(styles)
        assert len({style["color"] for style in styles}) == len(styles)


def test_missing_matplotlib_is_one_line(case, recorded, tmp_path, monkeypatch):
    """Catches a traceback where the course's extra is not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LlamaError, match="matplotlib"):
        plot(case, recorded(case), tmp_path / "x.png")


def test_readme_is_generated(case, recorded, tmp_path):
    """Catches a table with other numbers than its CSV's, and text outside the markers touched."""
    case = CASES["softmax"]
    results.write(tmp_path / "softmax-performance.csv", recorded(case))
    text = figures.updated(README, tmp_path)
    assert text.startswith("before\n<!-- bench:softmax-performance -->\n![softmax on NVIDIA H100 80GB HBM3]")
    assert text.endswith("<!-- /bench -->\nafter\n") and "no figures yet" not in text
    assert "| N | pytriton_llama | torch | torch.compile | Liger-Kernel | copy | ours / best peer |" in text
    assert "| 4097 | 1000 | 900 | 800 | 700 | 600 | 1.11 |" in text
    assert "geometric mean: 1.11 in fp16, 1.11 in bf16" in text and "2026-01-02" in text
    assert "pytriton_llama 7, torch 7" in text and "wrapper's own Python is 2.5 µs" in text
    assert figures.updated(text, tmp_path) == text


def test_wrong_and_skipped_in_a_table(case, recorded):
    """Catches a contender that is wrong, or the copy, taken for the best peer."""
    rows = recorded(case)[: len(case.contenders())]
    rows[1] = dataclasses.replace(rows[1], status="wrong", rate="")
    rows[2] = dataclasses.replace(rows[2], status="skipped", rate="")
    rows[-1] = dataclasses.replace(rows[-1], rate="2000.000")
    assert figures.table(case, rows).splitlines()[-1] == "| 3×8 fp16 | 1000 | wrong | – | 700 | 600 | 2000 | 1.43 |"


def test_disagreement_is_seen(recorded, tmp_path):
    """Catches a README that shows other figures than are recorded."""
    assert figures.disagreements(README, tmp_path) == []  # nothing recorded: the text stays
    assert figures.updated(README, tmp_path) == README
    case = CASES["softmax"]
    results.write(tmp_path / "softmax-performance.csv", recorded(case))
    assert figures.disagreements(README, tmp_path) == ["softmax-performance"]
    text = figures.updated(README, tmp_path)
    assert figures.disagreements(text, tmp_path) == []
    assert figures.disagreements(text.replace("| 900 |", "| 901 |", 1), tmp_path) == ["softmax-performance"]


def test_a_csv_that_no_benchmark_writes(recorded, tmp_path):
    """Catches a marker with a slip in its name."""
    results.write(tmp_path / "softmaxx.csv", recorded(CASES["softmax"]))
    with pytest.raises(LlamaError, match="softmaxx"):
        figures.updated(README.replace("softmax-performance", "softmaxx"), tmp_path)


def test_readme_agrees_with_what_is_recorded():
    """Catches figures in README.md that nobody measured: `make figures` writes them."""
    assert figures.disagreements((settings.ROOT / "README.md").read_text(encoding="utf-8")) == []
    for case in CASES.values():
        recorded = settings.RECORDED / case.result
        assert recorded.with_suffix(".csv").exists() == recorded.with_suffix(".png").exists()
