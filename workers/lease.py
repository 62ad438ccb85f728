"""The claims this worker holds, each with a lease that its own clock can end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nowserving.answer import Taken
from nowserving.errors import ClaimLostError
from workers.idle import Idle

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Lease:
    """One claim. `lost` is set once it is no longer valid; `stop` then makes the engine drop the job. `anew`: what an
    earlier attempt has made cannot be gone on from.

    Times are of this process's monotonic clock, in seconds.
    """

    claim: str
    since: float
    deadline: float
    job_id: str = ""
    taken: Taken | None = None
    tokens: int = 0
    begun: bool = False
    anew: bool = False
    lost: threading.Event = field(default_factory=threading.Event)
    handed_back: bool = False
    stop: Callable[[], None] = lambda: None

    def halt(self) -> None:
        """Make the engine drop the job; what a user's engine raises at that must stop no thread of ours."""
        try:
            self.stop()
        except (Exception, SystemExit):
            log.exception("%s: the engine failed to cancel it", self.job_id)


class Leases:
    """All claims of this worker: the taker adds, the task begins and drops, the heartbeat renews. Thread-safe.

    A claim stands here before the take that makes it is sent, so that a heartbeat never finds a stranger in it.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_seconds = lease_seconds
        self.changed = threading.Condition()
        self.idle = Idle(clock)
        self.on_lost: Callable[[bool], None] = lambda lapsed: None
        """Called for each claim that is lost: by this worker's own clock (True), or since Redis says so."""
        self.begins = 0
        """How often a task has begun."""
        self.changes = 0
        """How often one was dropped or reserved anew."""
        self._clock = clock
        self._jobs = 0
        self._leases: dict[str, Lease] = {}

    def add(self, claims: Iterable[str]) -> None:
        """Note claims that are about to be made."""
        now = self._clock()
        with self.changed:
            for claim in claims:
                self._leases[claim] = Lease(claim, since=now, deadline=now + self.lease_seconds)

    def fill(self, taken: Taken) -> Lease:
        """The take has answered with a job."""
        with self.changed:
            lease = self._leases[taken.claim]
            if lease.taken is None:
                self._jobs += 1
                if self._jobs == 1:
                    self.idle.note(busy=True)
            lease.job_id = taken.job_id
            lease.taken = taken
            lease.tokens = int(float(taken.fields.get("tokens", 0)))
            return lease

    def begin(self, claim: str) -> Lease:
        """A task starts on it. Raises ClaimLostError if it is unknown, lost (then it is dropped), or begun already."""
        with self.changed:
            lease = self._leases.get(claim)
            if lease is not None and lease.lost.is_set() and not lease.begun:
                self.drop(claim)
            if lease is None or lease.begun or lease.lost.is_set():
                raise ClaimLostError(f"claim {claim} is not a valid claim of this worker")
            lease.begun = True
            self.begins += 1
            return lease

    def reserve(self, lease: Lease, tokens: int) -> None:
        """Replace the bound that the queue knew by the exact count."""
        with self.changed:
            lease.tokens = tokens
            self.changes += 1
            self.changed.notify_all()

    def drop(self, *claims: str) -> None:
        """They are over: finished, released or lost, and the engine has let go of the jobs."""
        with self.changed:
            before = self._jobs
            for claim in claims:
                lease = self._leases.pop(claim, None)
                self._jobs -= lease is not None and lease.taken is not None
            if before and not self._jobs:
                self.idle.note(busy=False)
            self.changes += 1
            self.changed.notify_all()

    def all(self) -> list[Lease]:
        """The leases now."""
        with self.changed:
            return list(self._leases.values())

    def jobs(self) -> list[Lease]:
        """Those whose take has answered."""
        return [lease for lease in self.all() if lease.taken is not None]

    def renewed(self, claims: Iterable[str], sent_at: float) -> None:
        """A renew sent at `sent_at` has extended these; the lease counts from the sending, not from the answer."""
        with self.changed:
            for claim in claims:
                if lease := self._leases.get(claim):
                    lease.deadline = sent_at + self.lease_seconds

    def lose(self, claims: Iterable[str], lapsed: bool = False) -> None:
        """These are no longer valid: their jobs stop."""
        for claim in claims:
            with self.changed:
                lease = self._leases.get(claim)
            if lease is not None and not lease.lost.is_set():
                lease.lost.set()
                self.on_lost(lapsed)
                lease.halt()

    def lose_expired(self) -> None:
        """Stop what has not been renewed in time, without asking anyone: another worker may have it by now."""
        now = self._clock()
        expired = [lease for lease in self.jobs() if lease.deadline <= now and not lease.lost.is_set()]
        for lease in expired:
            log.warning("%s: the lease has ended, since Redis did not renew it in time", lease.job_id)
        self.lose([lease.claim for lease in expired], lapsed=True)

    def seconds_to_deadline(self) -> float:
        """Until the first of them ends. A lease made later ends later, so nothing is missed by sleeping so long.

        One whose take is still under way counts: it may be a job by then.
        """
        now = self._clock()
        leases = [lease for lease in self.all() if not lease.lost.is_set() and (lease.taken or lease.deadline > now)]
        return max(0.0, min(lease.deadline for lease in leases) - now) if leases else self.lease_seconds

    def stale(self, seconds: float) -> list[Lease]:
        """Jobs taken so long ago and still begun by no task: Celery has lost or refused the message."""
        now = self._clock()
        return [lease for lease in self.jobs() if not lease.begun and now - lease.since > seconds]

    def wait_for_change(self, timeout_seconds: float, since: int | None = None) -> None:
        """Wait until a lease is dropped or reserved anew (since `changes` was `since`), or the time is over."""
        with self.changed:
            seen = self.changes if since is None else since
            self.changed.wait_for(lambda: self.changes != seen, timeout_seconds)
