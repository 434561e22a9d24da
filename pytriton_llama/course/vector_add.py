"""What notebook 00 measures: z = x + y over n elements.

The package has no such kernel (Llama's additions happen inside of others), so it has no case in the bench.
"""

import torch

from pytriton_llama.bench.case import Case, Draw, Inputs, Point


def inputs(point: Point, draw: Draw) -> Inputs:
    return draw(*point.shape), draw(*point.shape)


def moved(point: Point) -> int:
    """x and y in, z out."""
    (n,) = point.shape
    return 3 * n * point.itemsize


def flops(point: Point) -> int:
    """One addition an element."""
    (n,) = point.shape
    return n


POINTS = tuple(Point((1 << power,), "fp32") for power in (14, 16, 18, 20, 22, 24))

ADD = Case(
    op="add",
    kernel=None,
    result="vector-add",
    points=POINTS,
    quick=POINTS,
    inputs=inputs,
    oracle=torch.add,
    peers={"torch": lambda: torch.add},
    bytes=moved,
    flops=flops,
    axis="n",
)
