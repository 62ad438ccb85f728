"""What a game knows of its jobs and workers without asking Redis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MAX_ATTEMPTS = 2
MAX_TAKES = 4


@dataclass
class Memory:
    """What the game knows without asking Redis."""

    now: float = 1000.0
    accepted: set[str] = field(default_factory=set)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Idempotency key → fingerprint, job."""
    attempts: Counter[str] = field(default_factory=Counter)
    charged: set[str] = field(default_factory=set)
    """Jobs whose present claim was charged and not refunded."""
    suspects: set[str] = field(default_factory=set)
    """Jobs that may have killed their last worker, and have made no token since."""
    begun: dict[str, str] = field(default_factory=dict)
    alive_until: dict[str, float] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    """Workers that are draining: not busy, whatever they hold."""

    def accept(self, job_id: str) -> None:
        """A new record, maybe of an id that has been forgotten."""
        self.accepted.add(job_id)
        self.attempts.pop(job_id, None)
        self.begun.pop(job_id, None)
        self.charged.discard(job_id)
        self.suspects.discard(job_id)

    def take(self, job_id: str) -> None:
        self.charged.discard(job_id)
        if job_id in self.suspects:
            self.charge(job_id)

    def begin(self, job_id: str, claim: str) -> None:
        if self.begun.get(job_id) != claim:
            self.begun[job_id] = claim
            self.charge(job_id)

    def charge(self, job_id: str) -> None:
        if job_id not in self.charged:
            self.charged.add(job_id)
            self.attempts[job_id] += 1

    def refund(self, job_id: str) -> None:
        if job_id in self.charged:
            self.charged.remove(job_id)
            self.attempts[job_id] -= 1

    def acquit(self, job_id: str) -> None:
        """It has made a token: it is no poison."""
        self.attempts[job_id] = 0
        self.charged.discard(job_id)
        self.suspects.discard(job_id)

    def used_up(self, job_id: str) -> bool:
        return job_id in self.charged and self.attempts[job_id] >= MAX_ATTEMPTS
