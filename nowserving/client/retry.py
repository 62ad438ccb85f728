"""The pauses between the tries of one call."""

from __future__ import annotations

import random
import time

from nowserving.client.error import ApiError
from nowserving.errors import NowservingError

PASSING = frozenset({429, 502, 503, 504})
"""Answers that may be another if one asks again."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 8.0


class Retry:
    """Pauses that double, with jitter, never shorter than Retry-After says; all within a budget that begins with the
    first failure, since what failed may have waited long before.
    """

    def __init__(self, budget_seconds: float) -> None:
        self._budget_seconds = budget_seconds
        self._until: float | None = None
        self._tries = 0

    def pause(self, error: NowservingError) -> None:
        """Sleep before the next try; raises `error` if there is none."""
        if isinstance(error, ApiError) and error.status not in PASSING:
            raise error
        now = time.monotonic()
        self._until = self._until or now + self._budget_seconds
        seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**self._tries) * random.uniform(0.5, 1)
        self._tries += 1
        if isinstance(error, ApiError) and error.retry_after_seconds:
            seconds += error.retry_after_seconds
        if now + seconds > self._until:
            raise error
        time.sleep(seconds)
