"""A mutant: one mechanism taken out, the promise it holds up, and the test that must notice."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FILE = Path(__file__).parent / "mutants.toml"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands exactly once in `file`, and is replaced by `new`."""

    promise: int
    name: str
    file: str
    old: str
    new: str
    test: str

    def find(self, root: Path) -> int:
        """How often `old` stands in the file."""
        return (root / self.file).read_text().count(self.old)

    def apply(self, root: Path) -> None:
        """Take the mechanism out of the checkout at `root`."""
        path = root / self.file
        path.write_text(path.read_text().replace(self.old, self.new))


def read_mutants() -> list[Mutant]:
    """All of mutants.toml, by promise."""
    tables = tomllib.loads(FILE.read_text())["mutant"]
    return sorted((Mutant(**table) for table in tables), key=lambda mutant: mutant.promise)
