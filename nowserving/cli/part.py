"""One part of `up` over all its lives: started, found dead, started again after a pause."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nowserving.cli.failure import PartError
from nowserving.cli.process import Process, Write, describe_exit

EX_CONFIG = 78
"""sysexits.h: a restart will not help, see docs/reliability.md."""
EX_TEMPFAIL = 75
"""A restart will help once something outside is mended, so not at once."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
FIRST_LONG_PAUSE_SECONDS = 15.0
LONGEST_LONG_PAUSE_SECONDS = 300.0
"""After EX_TEMPFAIL."""
CALM_SECONDS = 60.0
"""Whoever lived so long starts again with the first pause."""
STILLBIRTHS = 3
"""So many deaths before it was ever ready end `up`."""


@dataclass(slots=True)
class Restarts:
    """When to start a dead part again. Pure: the clock comes in."""

    ready: bool = False
    deaths: int = 0
    failures: int = 0
    """Ends with EX_TEMPFAIL in a row: what cannot begin yet has not died."""

    def note_death(self, code: int, lived_seconds: float) -> float | None:
        """Seconds to pause before the next start; None: there is no sense in one."""
        if code == EX_TEMPFAIL:
            self.failures += 1
            return float(min(LONGEST_LONG_PAUSE_SECONDS, FIRST_LONG_PAUSE_SECONDS * 2 ** (self.failures - 1)))
        self.failures = 0
        if lived_seconds >= CALM_SECONDS:
            self.deaths = 0
        self.deaths += 1
        if code == EX_CONFIG or (not self.ready and self.deaths >= STILLBIRTHS):
            return None
        return float(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (self.deaths - 1)))


@dataclass(slots=True)
class Part:
    """A command that is to run all the time. `vital`: if it ends, everything does."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    write: Write
    vital: bool = False
    process: Process | None = None
    restarts: Restarts = field(default_factory=Restarts)
    due_at: float = 0.0

    def start(self) -> None:
        """Start it."""
        self.process = Process(self.name, self.command, self.env, self.folder, self.write)

    def watch(self) -> None:
        """Start it again if it has died and its pause is over. Raises PartError if that is of no use."""
        if self.process is None:
            if time.monotonic() >= self.due_at:
                self.start()
            return
        code = self.process.poll()
        if code is None:
            return
        self.process.clear()
        pause = self.restarts.note_death(code, time.monotonic() - self.process.started_at)
        said = self.process.last_lines[-1] if self.process.last_lines else "it said nothing"
        self.process = None
        if self.vital or pause is None:
            raise PartError(f"{self.name} {describe_exit(code)}: {said}")
        self.due_at = time.monotonic() + pause
        self.write(self.name, f"{describe_exit(code)}; started again in {pause:g} s")
