"""A slip that a good programmer might make, and the tests that must catch it."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Fault(NamedTuple):
    """In ``file``, a path in the package, ``old`` stands once and becomes ``new``. ``tests``: paths in tests/ with a
    test's name, separated by blanks."""

    file: str
    what: str
    old: str
    new: str
    tests: str

    def fits(self, package: Path) -> bool:
        """Whether the fault can be planted; if not, the source has changed and the fault is stale."""
        return (package / self.file).read_text(encoding="utf-8").count(self.old) == 1

    def plant(self, package: Path) -> None:
        file = package / self.file
        file.write_text(file.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")
