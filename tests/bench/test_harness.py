"""Who is timed, in what order, how often; and that a run goes on where it stopped."""

import dataclasses
import importlib
import itertools

import pytest
import torch

from pytriton_llama.bench import command, harness, results, settings
from pytriton_llama.errors import LlamaError


def test_only_the_right_are_timed(case, points, timer, environment):
    """Catches a time for a wrong result, and one contender's refusal that stops the others."""
    found = {row.contender: row for row in harness.measure(case, points[0], timer, environment, 5, 1e9)}
    assert {name: row.status for name, row in found.items()} == {
        "pytriton_llama": "ok",
        "torch": "ok",
        "torch.compile": "wrong",
        "Liger-Kernel": "skipped",
        "SDPA flash": "skipped",
        "copy": "ok",
    }
    assert found["Liger-Kernel"].note == "not installed: peer_kernel"
    assert found["SDPA flash"].note == "ValueError: rows too long"
    assert "elements off" in found["torch.compile"].note
    for row in found.values():
        assert bool(row.median_us) == bool(row.rate) == bool(row.launch_us) == (row.status == "ok")
    assert len(timer.sets) == 3  # the wrong one never met the timer
    assert (found["torch"].median_us, found["torch"].launch_us) == ("2.000", "5.000")
    assert float(found["torch"].rate) == pytest.approx(2 * 3 * 8 * 2 / 2e-6 / 1e9, abs=1e-3)


def test_the_oracle_is_exact(case, points, timer, environment):
    """Catches an oracle that is given its inputs in 16 bits, where it rounds as everybody does."""
    seen = []
    exact = dataclasses.replace(case, oracle=lambda x: seen.append(x.dtype) or torch.softmax(x, -1))
    harness.measure(exact, points[0], timer, environment, 5, 1e9)
    assert seen == [torch.float64]


def test_inputs_as_a_peer_wants_them(case, points, timer, environment):
    """Catches a form that is left out, or that everybody gets."""
    peers = {"torch": case.peers["torch"], "halved": lambda: lambda x: torch.softmax(x / 2, -1)}
    formed = dataclasses.replace(case, peers=peers, forms={"halved": lambda x: (2 * x,)})
    found = harness.measure(formed, points[0], timer, environment, 5, 1e9)
    assert {row.status for row in found} == {"ok"}


def test_the_rate_is_the_medians(case, points, environment):
    """Catches that of a quartile, or of the mean."""
    row = harness._row(case, points[0], environment, "torch", harness.Entrant("ok"), [1e-6, 2e-6, 9e-6])
    assert (row.q1_us, row.median_us, row.q3_us) == ("1.500", "2.000", "5.500")
    assert float(row.rate) == pytest.approx(case.rate(points[0], 2e-6), abs=1e-3)


def test_ours_meets_poisoned_memory(case, points, timer, environment, monkeypatch):
    """Catches a kernel of ours that leaves elements unwritten where an earlier result happens to lie."""
    module = importlib.import_module("pytriton_llama.kernels.softmax")
    seen = []
    monkeypatch.setattr(module, "softmax", lambda x: seen.append(torch.empty_like(x)) or seen[0])
    found = harness.measure(case, points[0], timer, environment, 5, 1e9)
    assert (found[0].status, found[0].note) == ("wrong", "24 of 24 elements off")
    assert seen[0].isnan().all()


def test_contenders_alternate(case, points, timer, environment):
    """Catches one contender measured after the other, and an order that always favours the same one."""
    harness.measure(case, points[0], timer, environment, 4, 1e9)
    forwards, backwards = [0, 1, 2], [2, 1, 0]
    # The first round is thrown away; then settings.MIN_REPEATS, although 4 were asked for.
    assert timer.log == forwards + forwards + backwards + forwards + backwards + forwards


def test_buffers_rotate(case, points, timer, environment, monkeypatch):
    """Catches buffers that fit the cache together, and a copy that reuses one buffer where others have many."""
    harness.measure(case, points[0], timer, environment, 5, 1e9)
    assert set(timer.sets) == {11}  # 96 bytes a call, 1000 to pass
    sets = harness.draw_sets(case, points[0], "cpu")
    assert len({inputs[0].data_ptr() for inputs in sets}) == 11 and not torch.equal(sets[0][0], sets[1][0])
    assert harness.copy_sets(case, points[0], 2, "cpu")[0][0].nbytes == 48
    monkeypatch.setattr(settings, "MAX_SETS", 3)
    assert len(harness.draw_sets(case, points[0], "cpu")) == 3


def test_slow_points_are_repeated_less(case, points, timer, environment):
    """Catches a time bound that is ignored; the clock here ticks 1 s whenever someone looks."""
    clock = itertools.count().__next__
    harness.measure(case, points[0], timer, environment, 100, 23.0, clock)
    # 3 s were gone after the round that took 1 s.
    assert len(timer.log) == 3 * (1 + 20)


def test_in_place_contender_does_not_spoil_the_inputs(case, points, timer, environment):
    """Catches a check that hands the contenders' own inputs to one that writes into them."""
    peers = {"in place": lambda: lambda x: x.copy_(x.softmax(-1))}
    peers["torch"] = case.peers["torch"]
    found = harness.measure(dataclasses.replace(case, peers=peers), points[0], timer, environment, 5, 1e9)
    assert {row.status for row in found} == {"ok"}


def test_resumes(case, points, timer, environment, tmp_path):
    """Catches a point measured twice, or kept although the GPU, the versions or the kernel changed."""
    path = tmp_path / "new" / "x.csv"
    assert harness.run(case, points[:2], timer, environment, path, 5) == 0
    before, measured = path.read_text(), len(timer.sets)
    assert harness.run(case, points[:2], timer, environment, path, 5) == 0
    assert path.read_text() == before and len(timer.sets) == measured
    assert harness.run(case, points[:3], timer, environment, path, 5) == 0
    assert path.read_text().startswith(before) and len(timer.sets) == measured + 3
    for other in ({"gpu": "NVIDIA T4"}, {"versions": "torch 9"}, {"driver": "1"}):
        assert results.current(case, results.read(path), dataclasses.replace(environment, **other)) == {}
    assert list(results.current(case, results.read(path), environment)) == list(points[:3])
    rows = [dataclasses.replace(row, source="another kernel") for row in results.read(path)]
    assert results.current(case, rows, environment) == {}


def test_a_new_contender_is_measured(case, points, timer, environment, tmp_path):
    """Catches a point called done although somebody was not there."""
    path = tmp_path / "x.csv"
    harness.run(case, points[:1], timer, environment, path, 5)
    more = dataclasses.replace(case, peers=case.peers | {"cuBLAS": case.peers["torch"]})
    assert results.current(more, results.read(path), environment) == {}


def test_budget_ends_the_run(case, points, timer, environment, tmp_path):
    """Catches a run that goes on for ever, and one that forgets what it had measured."""
    path = tmp_path / "x.csv"
    clock = itertools.count().__next__
    left = harness.run(case, points, timer, environment, path, 5, budget=10.0, clock=clock)
    assert 0 < left < len(points)
    assert len(results.current(case, results.read(path), environment)) == len(points) - left


def test_csv_round_trip(case, points, timer, environment, tmp_path):
    """Catches a comma or a quote in a note that moves columns, and a cut line that takes others with it."""
    rows = harness.measure(case, points[0], timer, environment, 5, 1e9)
    rows[0] = dataclasses.replace(rows[0], note='said "no", twice')
    results.write(tmp_path / "x.csv", rows)
    assert results.read(tmp_path / "x.csv") == rows
    assert rows[0].point == points[0]
    text = (tmp_path / "x.csv").read_text()
    (tmp_path / "x.csv").write_text(text[: text.rindex(",")])
    results.append(tmp_path / "x.csv", rows[:1])
    assert results.read(tmp_path / "x.csv") == [*rows[:-1], rows[0]]
    assert results.read(tmp_path / "none.csv") == []


def test_a_broken_gpu_stops_the_run(case, points, timer, environment, monkeypatch):
    """Catches a dead GPU context recorded as everybody's refusal."""

    def broken():
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(timer, "synchronize", broken)
    with pytest.raises(RuntimeError, match="CUDA error"):
        harness.measure(case, points[0], timer, environment, 5, 1e9)


@pytest.mark.parametrize("gpu", ["NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 3090"])
def test_refuses_to_record_another_gpu(gpu):
    """Catches published figures of two cards in one table."""
    with pytest.raises(LlamaError, match="NVIDIA H100.*" + gpu):
        command.allow_recording(gpu)
    command.allow_recording("NVIDIA H100 80GB HBM3")


def test_bad_options_end_in_one_line():
    """Catches an unknown operation after minutes, and a quick look published."""
    with pytest.raises(LlamaError, match=r"softmaxx.*known: softmax,"):
        command.bench(["softmax", "softmaxx"])
    with pytest.raises(LlamaError, match="--quick"):
        command.bench(["softmax"], quick=True, record=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_needs_a_gpu():
    """Catches a traceback, and times of the interpreter."""
    with pytest.raises(LlamaError, match="needs a GPU"):
        command.bench(["softmax"])


@pytest.fixture
def command_here(case, timer, environment, tmp_path, monkeypatch):
    """The command with the small case, a fake timer and folders of its own."""
    monkeypatch.setattr("pytriton_llama.bench.cases.CASES", {"softmax": case})
    monkeypatch.setattr("pytriton_llama.bench.timing.CudaTimer", lambda: timer)
    monkeypatch.setattr("pytriton_llama.bench.timing.environment", lambda: environment)
    monkeypatch.setattr(settings, "LOCAL", tmp_path / "local")
    published = []
    monkeypatch.setattr("pytriton_llama.bench.figures.publish", lambda case, rows: published.append(rows))
    return published


def test_command(command_here, case, tmp_path, capsys):
    """Catches a quick look that a full run takes for its own, and points left out of what is published."""
    command.bench(["softmax"], quick=True)
    out = capsys.readouterr().out
    assert "| 3×8 fp16 |" in out and "wrong" in out and command_here == []
    assert [file.name for file in (tmp_path / "local").iterdir()] == ["softmax-performance.quick.csv"]
    command.bench(record=True)
    (rows,) = command_here
    assert len(rows) == len(case.points) * len(case.contenders())


def test_unfinished_is_not_recorded(command_here, monkeypatch, capsys):
    """Catches half a result published."""
    monkeypatch.setattr("pytriton_llama.bench.harness.run", lambda *_: 2)
    with pytest.raises(LlamaError, match="unfinished: softmax"):
        command.bench(["softmax"], record=True)
    assert "2 points left" in capsys.readouterr().err and command_here == []
