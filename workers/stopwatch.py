"""What is measured of one job on its way through a worker."""

from __future__ import annotations

import time
from collections.abc import Callable

from nowserving.job import Job
from workers.inbox import Piece
from workers.metrics import JobMetrics


class Stopwatch:
    """Runs from the take on, `since` by its clock. What a job waited before that counts if nobody had it yet."""

    def __init__(
        self, metrics: JobMetrics, job: Job, since: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics, self._since, self._clock = metrics, since, clock
        self._waited_seconds: float | None = None
        self._submitted_at: float | None = None
        if job.takes == 1 and job.started_at is not None:
            self._waited_seconds = max(0.0, job.started_at - job.created_at)
            metrics.started(self._waited_seconds)

    def submit(self) -> None:
        """The engine gets it now."""
        self._submitted_at = self._clock()

    def note(self, piece: Piece) -> None:
        """The engine has made this of it."""
        if piece.begun is not None:
            self._metrics.began(piece.begun)
        if not piece.ids:
            return
        self._metrics.made(len(piece.ids))
        if self._submitted_at is not None:
            now, waited_seconds = self._clock(), self._waited_seconds
            accepted_seconds = None if waited_seconds is None else waited_seconds + now - self._since
            self._metrics.made_first(now - self._submitted_at, accepted_seconds)
            self._submitted_at = None
