"""Formulas and ceilings against numbers worked out by hand; recordings shown as such."""

import dataclasses
import sys

import matplotlib.pyplot as plt
import pytest
import torch

from pytriton_llama.bench import harness, results, settings
from pytriton_llama.bench.case import Point
from pytriton_llama.bench.cases import CASES
from pytriton_llama.bench.figures import table
from pytriton_llama.course import (
    H100,
    cards,
    figures,
    measure,
    peak_memory,
    recorded_ceilings,
    seconds,
    this_card,
    vector_add,
)
from pytriton_llama.runtime import interpreted

# The package's name for it is the function.
module = sys.modules["pytriton_llama.course.measure"]

without_gpu = pytest.mark.skipif(not interpreted(), reason="shows what is recorded where there is no GPU")


def test_vector_add_formulas():
    """Catches a store forgotten (2 tensors), elements for bytes, and a fused multiply-add's two FLOPs."""
    assert [vector_add.moved(Point((10,), dtype)) for dtype in ("fp32", "fp16")] == [120, 60]
    assert vector_add.flops(Point((10,), "fp32")) == 10


def test_floor():
    """Catches the smaller of the two times taken for the floor, and a peak that is not the one asked for."""
    card = cards.Card("test", bandwidth=100.0, fp16=1000.0, fp32=10.0)
    assert card.floor(500, 10) == 5.0  # bytes decide
    assert card.floor(500, 100) == 10.0  # FLOPs decide
    assert card.floor(500, 100, card.fp16) == 5.0


def test_data_sheets():
    """Catches GB/s among bytes/s, TFLOP/s among FLOP/s, and sparse peaks (twice the dense ones)."""
    for card in cards.CARDS:
        assert 1e11 < card.bandwidth < 1e13 and 1e12 < card.fp32 < 1e14 < 10 * card.fp16 < 1e16
    assert (H100.bandwidth, H100.fp16, H100.fp32) == (3350e9, 989e12, 67e12)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", cards.H100),
        ("NVIDIA H200", cards.H200),
        ("NVIDIA A100-SXM4-80GB", cards.A100),
        ("Tesla T4", cards.T4),
        ("NVIDIA GeForce RTX 4090", cards.RTX_4090),
        ("NVIDIA L4", cards.L4),
        ("NVIDIA L40S", cards.H100),  # no sheet
    ],
)
def test_this_card(name, card, monkeypatch):
    """Catches a name that is looked for inside another one: an L40S is no L4."""
    monkeypatch.setattr(cards, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert this_card() is card


def recording(case, gpu="NVIDIA H100 80GB HBM3"):
    """Rows as a bench run would leave them: the first contender at 1000, each further one 100 more."""
    environment = results.Environment(gpu, "580.1", "torch 2.11.0")
    rows = []
    for point in case.points:
        for i, name in enumerate(case.contenders()):
            entrant, rate = harness.Entrant("ok", launch=7e-6), 1000 + 100 * i
            times = [case.bytes(point) / rate / 1e9] * 3
            rows.append(harness._row(case, point, environment, name, entrant, times))
    return rows


@without_gpu
def test_a_recording_says_what_it_is(tmp_path, monkeypatch, capsys):
    """Catches a recorded figure passed off as this machine's, dtypes mixed in one line, and a plot without its card."""
    plt.switch_backend("agg")
    shown = []
    monkeypatch.setattr(settings, "RECORDED", tmp_path)
    monkeypatch.setattr(module, "display", lambda markdown: shown.append(markdown.data))
    case = CASES["softmax"]
    results.write(tmp_path / f"{case.result}.csv", recording(case))
    measure("softmax", also={"mine": torch.clone})
    (text,) = shown
    assert text.startswith("no GPU here, so this is a recording: NVIDIA H100 80GB HBM3, GB/s")
    assert "bf16" not in text and "| pytriton_llama |" in text and "mine" not in text
    assert "NVIDIA H100 80GB HBM3" in plt.gca().get_title(loc="left")
    plt.close("all")


@without_gpu
def test_nothing_recorded(tmp_path, monkeypatch, capsys):
    """Catches a cell that fails, or draws an empty figure, before anybody has recorded anything."""
    monkeypatch.setattr(settings, "RECORDED", tmp_path)
    measure("softmax")
    assert capsys.readouterr().out == (
        "softmax: no GPU here, and nothing recorded in benchmark_result/softmax-performance.csv\n"
    )
    assert plt.get_fignums() == []
    assert recorded_ceilings() == {}


def test_ceilings(tmp_path, monkeypatch, capsys):
    """Catches the slowest instead of the fastest, an operation's own rate taken for the copy's, a ceiling unnamed."""
    monkeypatch.setattr(settings, "RECORDED", tmp_path)
    for op in ("softmax", "ceiling_read"):
        results.write(tmp_path / f"{CASES[op].result}.csv", recording(CASES[op]))
    # softmax: ours, three peers and the copy; ceiling_read: two peers and the copy.
    assert recorded_ceilings() == {"copy": 1400.0, "read": 1100.0}
    assert "fastest copy recorded, on an NVIDIA H100 80GB HBM3: 1,400 GB/s" in capsys.readouterr().out


def test_rates_without_a_result():
    """Catches a contender that was skipped, and so has no rate, ending the plot."""
    plt.switch_backend("agg")
    rows = recording(CASES["softmax"])
    figures.rates(CASES["softmax"], [dataclasses.replace(rows[0], rate="", status="skipped"), *rows[1:]])
    plt.close("all")


def with_own(case, *names):
    """A recording in which versions of a notebook's compete."""
    return recording(dataclasses.replace(case, peers={name: lambda: torch.clone for name in names} | case.peers))


def test_own_versions_are_no_peers():
    """Catches a notebook's version taken for the best peer, and its column lost."""
    case = CASES["softmax"]
    rows = with_own(case, "first", "second")
    fast = [dataclasses.replace(row, rate="9000") if row.contender == "second" else row for row in rows]
    heading, _, line, *_ = table(case, fast).splitlines()
    assert heading.startswith("| point | first | second | pytriton_llama | torch | ")
    # Ours at 1000, the notebook's after it, then the peers: the best at 1500.
    assert line == "| 8192×512 fp16 | 1100 | 9000 | 1000 | 1300 | 1400 | 1500 | 1600 | 0.67 |"


@pytest.mark.parametrize("op", ["softmax", "rotary_embedding"])
def test_lines_are_told_apart(op):
    """Catches two lines of one colour, marker or dash, own ones below others, and ticks where nothing was measured."""
    plt.switch_backend("agg")
    case = CASES[op]
    names = ["first", "second", "third"]
    figures.rates(case, with_own(dataclasses.replace(case, points=case.quick), *names))
    lines = {line.get_label(): line for line in plt.gca().lines}
    for look in (lambda line: line.get_color(), lambda line: line.get_marker(), lambda line: str(line._dash_pattern)):
        assert len(set(map(look, lines.values()))) == len(lines)
    assert list(lines)[-3:] == names
    assert {lines[name].get_markerfacecolor() for name in names} == {"white"}
    assert min(lines[name].get_zorder() for name in names) > lines[settings.OURS].get_zorder()
    assert plt.gca().get_xticks().tolist() == [point.shape[case.swept] for point in case.quick]
    assert not len(plt.gca().get_xticks(minor=True))
    plt.close("all")


def test_labels_have_room():
    """Catches 4096 and 4097 written over each other, and a size left out that has room."""
    plt.switch_backend("agg")
    rows = [row for row in recording(CASES["softmax"]) if row.point.shape[0] > 1]
    figures.rates(CASES["softmax"], rows)
    labels = {label.get_text() for label in plt.gca().get_xticklabels()}
    assert {"512", "4096", "11008", "131072"} < labels and not {"1000", "4097"} & labels
    plt.close("all")


def test_seconds_counts_calls():
    """Catches a first call, with its compilation, among those that are timed."""
    calls = []
    assert seconds(calls.append, 1, repeats=3) >= 0 and calls == [1] * 4
    assert peak_memory() >= 0


@pytest.mark.gpu
def test_live():
    """Catches versions of the notebook that don't compete."""
    from pytriton_llama.course.measure import live

    rows = live(dataclasses.replace(vector_add.ADD, peers=vector_add.ADD.peers | {"mine": lambda: torch.add}))
    assert {row.contender for row in rows if row.status == "ok"} == {"torch", "mine", settings.COPY}
