"""Time that runs faster: one factor for everything that only waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """At `speed` 20 an interval of 5 s passes in 0.25 s; work, such as a process's start, takes what it takes."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._began = time.monotonic()

    def now(self) -> float:
        """Seconds of this clock since it was made."""
        return (time.monotonic() - self._began) * self.speed

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done meanwhile takes no time of this clock."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def real(self, seconds: float) -> float:
        """How long so many seconds of this clock take."""
        return seconds / self.speed
