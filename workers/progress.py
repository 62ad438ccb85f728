"""Whether the engine's loop still turns: a process that lives is no sign of it."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST_SECONDS = 2.0
"""A step stays under a second; a machine that does other things besides may take longer."""


class Progress:
    """Compares the engine's count of steps with what it was. Thread-safe enough: a race costs one look."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_seconds = max(LEAST_SECONDS, lease_seconds / 2)
        self._clock = clock
        self._seen = (-1, clock())

    def note(self, steps: int) -> bool:
        """Take in the count; False if it has been the same for `limit_seconds`."""
        now = self._clock()
        if steps != self._seen[0]:
            self._seen = (steps, now)
        return now - self._seen[1] < self.limit_seconds
