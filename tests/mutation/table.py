"""All faults, in one list. A part has them by file: what the fault is, old and new text, and the tests."""

from importlib import import_module
from pathlib import Path

from tests.mutation.fault import Fault

_PARTS = sorted(file.stem for file in (Path(__file__).parent / "faults").glob("*.py"))

FAULTS: list[Fault] = [
    Fault(file, *fault)
    for part in _PARTS
    for file, faults in import_module(f"tests.mutation.faults.{part}").FAULTS.items()
    for fault in faults
]
