"""A timer that needs no GPU, and a small case whose contenders are right, wrong, missing, and unwilling."""

import dataclasses

import pytest
import torch

from pytriton_llama.bench import results, settings
from pytriton_llama.bench.case import Case, Point
from pytriton_llama.runtime import interpreted


class FakeTimer:
    """Seconds a call by contender, in the order in which samplers are asked for; keeps a log."""

    device = "cpu" if interpreted() else "cuda"

    def __init__(self):
        self.log: list[int] = []
        self.sets: list[int] = []

    def sampler(self, run, sets):
        number = len(self.sets)
        self.sets.append(len(sets))

        def sample() -> float:
            self.log.append(number)
            return (number + 1) * 1e-6

        return sample

    def launch_cost(self, run, inputs):
        return 5e-6

    def bare_launch_cost(self, run, inputs):
        return 3e-6

    def synchronize(self):
        pass


def refuse(x):
    raise ValueError("rows too\n long")


def missing():
    raise ImportError("no such peer", name="peer_kernel")


@pytest.fixture
def timer() -> FakeTimer:
    return FakeTimer()


@pytest.fixture
def environment() -> results.Environment:
    return results.Environment("NVIDIA H100 80GB HBM3", "580.1", "torch 2.11.0, triton 3.6.0, liger-kernel none")


@pytest.fixture
def points() -> tuple[Point, ...]:
    return tuple(Point((3, N), dtype) for dtype in ("fp16", "fp32") for N in (8, 16, 32))


@pytest.fixture
def case(points, monkeypatch) -> Case:
    monkeypatch.setattr(settings, "L2_BYTES", 1000)
    return Case(
        op="softmax",
        kernel="softmax",
        result="softmax-performance",
        points=points,
        quick=points[:1],
        inputs=lambda point, draw: (draw(*point.shape),),
        oracle=lambda x: torch.softmax(x, -1),
        peers={
            "torch": lambda: lambda x: torch.softmax(x, -1),
            "torch.compile": lambda: lambda x: torch.softmax(x, -1) * 1.01,
            "Liger-Kernel": missing,
            "SDPA flash": lambda: refuse,
        },
        bytes=lambda point: 2 * point.shape[0] * point.shape[1] * point.itemsize,
        flops=lambda point: 5 * point.shape[0] * point.shape[1],
    )


@pytest.fixture
def recorded(environment):
    """Rows of a whole case as if measured: the first contender at 1000 GB/s, each further one 100 less."""

    def rows(case: Case) -> list[results.Row]:
        out = []
        for point in case.points:
            for i, name in enumerate(case.contenders()):
                rate = 1000 - 100 * i
                median = case.bytes(point) / rate / 1e3
                row = results.Row(
                    op=case.op,
                    dtype=point.dtype,
                    shape=results.shape_text(point),
                    contender=name,
                    status="ok",
                    median_us=f"{median}",
                    q1_us=f"{median * 0.98}",
                    q3_us=f"{median * 1.02}",
                    launch_us="7.000",
                    bare_launch_us="4.500",
                    rate=f"{rate:.3f}",
                    unit=case.unit,
                    note="",
                    source=results.digest(case),
                    date="2026-01-02",
                    **dataclasses.asdict(environment),
                )
                out.append(row)
        return out

    return rows
