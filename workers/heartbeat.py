"""The heartbeat: renews the leases, tells how the worker does, learns what it has lost; beside it, the worker's own
clock ends leases that were not renewed in time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from nowserving import verb
from nowserving.errors import NowservingError
from nowserving.store import Store
from nowserving.vigil import Vigil
from workers.lease import Leases

log = logging.getLogger(__name__)

BUSY_SECONDS = 0.5
"""The longest beat while jobs run: a cancel is learnt within it."""
IDLE_SECONDS = 3.0
BEATS_A_LEASE = 5
SHORTEST_SECONDS = 0.05
STILL_SECONDS = 60.0
"""A beat that has not ended by then never will: one that waits for a Redis that is away, name and all, takes less."""
HANDOVER_SECONDS = 5.0
"""A job that no task begins within this is released."""


class Heartbeat:
    """Beats until stopped. `describe` is asked for (draining, blocked, info) before each beat; `turns` says
    whether the engine's loop still turns: if not, nothing is renewed, and others get the jobs when the leases end.
    """

    def __init__(
        self,
        store: Store,
        leases: Leases,
        model: str,
        worker: str,
        max_attempts: int,
        describe: Callable[[], tuple[bool, bool, dict[str, Any]]],
        turns: Callable[[], bool],
    ) -> None:
        self._store, self._leases = store, leases
        self._model, self._worker, self._max_attempts = model, worker, max_attempts
        self._describe, self._turns = describe, turns
        self.on_failure: Callable[[], None] = lambda: None
        """Called for each beat that fails."""
        self.on_unbegun: Callable[[], None] = lambda: None
        """Called by each beat that finds jobs which no task has begun."""
        self._tried_at = time.monotonic()
        self._kicked, self._stopping = threading.Event(), threading.Event()
        self._vigil = Vigil(leases.lease_seconds)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        # Not the same thread: a beat may wait long for Redis's answer, a deadline for nothing.
        self._deadlines = threading.Thread(target=self._keep_deadlines, name="deadlines", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._tried_at = time.monotonic()
        self._deadlines.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating; returns when the last beat is over."""
        self._stopping.set()
        self._kicked.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * self._leases.lease_seconds)

    def kick(self) -> None:
        """Beat now: something has changed that others should know."""
        self._kicked.set()

    def why_still(self) -> str:
        """Why it does not beat though it should; "" if it does. Tries count: that Redis is away is no reason."""
        if self._thread.ident is None or self._stopping.is_set():
            return ""
        if not (self._thread.is_alive() and self._deadlines.is_alive()):
            return "the heartbeat's thread has ended"
        still_seconds = time.monotonic() - self._tried_at
        return f"no heartbeat for {still_seconds:.0f} s" if still_seconds > STILL_SECONDS else ""

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._tried_at = time.monotonic()
            try:
                self.beat()
            except NowservingError as error:
                self._vigil.end()
                self.on_failure()
                log.warning("heartbeat failed: %s", error.message)
            except Exception:
                self.on_failure()
                log.exception("heartbeat failed")
            time.sleep(SHORTEST_SECONDS)  # a bound on beats that follow kicks
            longest = BUSY_SECONDS if self._leases.all() else IDLE_SECONDS
            self._kicked.wait(min(longest, self._leases.lease_seconds / BEATS_A_LEASE))
            self._kicked.clear()

    def _keep_deadlines(self) -> None:
        while not self._stopping.wait(self._leases.seconds_to_deadline()):
            self._leases.lose_expired()

    def beat(self) -> None:
        """One renew and what follows from it. Raises StoreUnavailableError."""
        if not self._turns():
            log.error("the engine's loop makes no progress: leases are not renewed")
            return
        draining, blocked, info = self._describe()
        named = [lease.claim for lease in self._leases.all()]
        held = {lease.claim for lease in self._leases.jobs()}
        sent_at = time.monotonic()
        call = verb.renew(
            self._model,
            self._worker,
            named,
            lease_seconds=self._leases.lease_seconds,
            draining=draining,
            blocked=blocked,
            reap_until=self._vigil.reap_until,
            max_attempts=self._max_attempts,
            info=info,
        )
        beat = self._store.run(call)
        self._vigil.note(beat.at)
        self._leases.renewed(set(named) - set(beat.lost), sent_at)
        # A claim named before its take was executed is no loss.
        self._leases.lose(held.intersection(beat.lost))
        # A claim added since we named ours is no stranger.
        known = {lease.claim for lease in self._leases.all()}
        for claim, job_id in beat.strangers:
            if claim not in known:
                log.warning("%s was taken, but the answer was lost: released", job_id)
                self._store.run(verb.release(job_id, claim, "answer_lost"))
        stale = self._leases.stale(HANDOVER_SECONDS)
        if not all(lease.lost.is_set() for lease in stale):
            self.on_unbegun()
        for lease in stale:
            log.warning("%s was begun by no task: released", lease.job_id)
            lease.lost.set()
            self._store.run(verb.release(lease.job_id, lease.claim, "not_begun"))
            self._leases.drop(lease.claim)
