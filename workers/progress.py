"""Whether the engine's loop still turns: a process that lives is no sign of it."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST_SECONDS = 2.0
"""A step stays under a second; a machine that does other things besides may take longer."""
LOOKS = 4
"""Of no single gap between two looks counts more than this part of the limit."""


class Progress:
    """Compares the engine's count of steps with what it was. Thread-safe enough: a race costs one look.

    In a long gap between two looks it was the whole process that stood still (a SIGSTOP, a machine that slept): that
    tells nothing of the engine, and such a process finds its claims lost and goes on.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_seconds = max(LEAST_SECONDS, lease_seconds / 2)
        self._clock = clock
        self._steps, self._looked_at, self._still_seconds = -1, clock(), 0.0

    def note(self, steps: int) -> bool:
        """Take in the count; False if it has been the same for `limit_seconds`."""
        now = self._clock()
        gap_seconds, self._looked_at = now - self._looked_at, now
        if steps != self._steps:
            self._steps, self._still_seconds = steps, 0.0
        else:
            self._still_seconds += min(gap_seconds, self.limit_seconds / LOOKS)
        return self._still_seconds < self.limit_seconds
