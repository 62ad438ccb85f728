"""A vigil: how long a process has heard from Redis without a gap, which is what lets it judge others dead.

Whoever was cut off from Redis, or found it started anew, gives all others the time of a lease to be heard again. Pure.
"""

from __future__ import annotations


class Vigil:
    """Knows of one process when Redis answered it; all times by Redis's clock, in Unix seconds."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._since: float | None = None
        self._last = 0.0

    @property
    def gap_seconds(self) -> float:
        """A longer silence ends a vigil: others may not have been heard either."""
        return self._lease_seconds / 2

    @property
    def reap_until(self) -> float:
        """Until when lapsed leases may be reaped; 0 before the vigil has lasted a lease."""
        if self._since is None or self._last - self._since < self._lease_seconds:
            return 0.0
        return self._last + self.gap_seconds

    def note(self, at: float) -> None:
        """Redis has answered."""
        if self._since is None or not 0 <= at - self._last <= self.gap_seconds:
            self._since = at
        self._last = at

    def end(self) -> None:
        """Redis has not answered."""
        self._since = None
