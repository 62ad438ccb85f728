"""How long nothing has run on this worker: what its pod says of it, and what an idle GPU costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Idle:
    """Told at each edge between idle and busy. Thread-safe: a total that is read never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = clock()
        self._counts_from = float("inf")
        self._total_seconds = 0.0

    def count(self) -> None:
        """The total counts from now on: till then there was nothing that could run."""
        with self._lock:
            self._counts_from = self._clock()

    def note(self, busy: bool) -> None:
        """Something runs now, or nothing does."""
        with self._lock:
            self._total_seconds = self._sum()
            self._since = None if busy else self._clock()

    @property
    def seconds(self) -> float | None:
        """How long nothing has run; None while something does."""
        since = self._since
        return None if since is None else self._clock() - since

    @property
    def total_seconds(self) -> float:
        """In which nothing ran."""
        with self._lock:
            return self._sum()

    def _sum(self) -> float:
        if self._since is None:
            return self._total_seconds
        return self._total_seconds + max(0.0, self._clock() - max(self._since, self._counts_from))
