"""How what counts only under a claim is sent: until Redis answers, or the lease ends."""

from __future__ import annotations

import secrets
from typing import TypeVar

from nowserving.call import Call
from nowserving.errors import ClaimLostError, StoreFullError, StoreUnavailableError
from nowserving.store import Store
from workers.lease import Lease

T = TypeVar("T")

RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0


def send_patiently(store: Store, lease: Lease, call: Call[T]) -> T:
    """Send until Redis answers. Raises ClaimLostError once the lease ends: nothing written then would count."""
    failures = 0
    while True:
        try:
            return store.run(call)
        except (StoreUnavailableError, StoreFullError):
            if lease.lost.wait(pause_seconds(failures)):
                raise ClaimLostError(f"{lease.job_id}: the lease ended before Redis answered") from None
            failures += 1


def pause_seconds(failures: int) -> float:
    """How long to wait before the next try, with jitter, if so many had failed before the one that just has."""
    longest: float = min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2 ** min(failures, 10))
    return longest * (0.5 + secrets.randbelow(100) / 100)
