"""The taker: a thread that takes jobs while the gate is open, and waits without polling Redis while there is none."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import cast

import redis

from nowserving import keys, verb
from nowserving.answer import Suspect, Taken, Unfit
from nowserving.errors import NowservingError, StoreUnavailableError
from nowserving.store import Store
from workers.gate import Closed, Verdict
from workers.lease import Lease, Leases
from workers.metrics import Metrics

log = logging.getLogger(__name__)

WAKE_MS = 1000
"""How long one wait for a wake-up lasts; after it the queue is looked at in any case."""
LOOK_SECONDS = 0.02
"""How often a closed gate is asked again. Costs Redis nothing."""
FULL_SECONDS = 0.25
"""How often if it is closed since all slots are taken: that this changes is said."""
UNFIT_SECONDS = 0.25
"""How often the queue is asked again whether its head is still the one that does not fit."""


class Taker:
    """Takes until stopped. `judge` gives the gate's verdict on jobs of so many tokens; `hand_over` puts them on their
    way to Celery; `changed` hears of each change of the reason why nothing is taken (None: the gate is open).
    """

    def __init__(
        self,
        store: Store,
        leases: Leases,
        model: str,
        worker: str,
        max_takes: int,
        capacity_tokens: int,
        judge: Callable[[int], Verdict],
        hand_over: Callable[[list[Lease]], None],
        changed: Callable[[Closed | None], None],
        metrics: Metrics,
    ) -> None:
        self._store, self._leases = store, leases
        self._model, self._worker = model, worker
        self._max_takes, self._capacity = max_takes, capacity_tokens
        self._ask, self._hand_over, self._changed = judge, hand_over, changed
        self._metrics = metrics
        self._closed: Closed | None = None
        self._likely_tokens = capacity_tokens
        """The size of the largest job that was seen last: those behind it are likely to be no larger."""
        self._seen_wake = "0-0"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taker", daemon=True)

    def start(self) -> None:
        """Begin to take."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more. The thread may still wait for a wake-up; what a take under way brings is given back."""
        self._stopping.set()

    @property
    def dead(self) -> bool:
        """Whether the thread has ended, though nobody told it to."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._stopping.is_set()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join(timeout=2 * WAKE_MS / 1000)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._turn()
                failures = 0
            except StoreUnavailableError as error:
                failures += 1
                log.warning("cannot take: %s", error.message)
                self._stopping.wait(min(1.0, 0.05 * 2 ** min(failures, 5)) * (0.5 + secrets.randbelow(100) / 200))
            except Exception:
                log.exception("cannot take")
                self._stopping.wait(1.0)

    def _judge(self) -> Verdict:
        verdict = self._ask(self._likely_tokens)
        self._metrics.judged(verdict.closed)
        return verdict

    def _turn(self) -> None:
        before = self._leases.changes
        verdict = self._judge()
        if verdict.closed:
            self._say(verdict.closed)
            self._leases.wait_for_change(FULL_SECONDS if verdict.closed is Closed.SLOTS else LOOK_SECONDS, before)
            return
        answer = self._take(verdict)
        if isinstance(answer, Unfit):
            tokens = min(answer.tokens, self._capacity)
            if tokens == self._likely_tokens:
                self._say(verdict.scarce)
                self._wait_for_room(tokens)
            self._likely_tokens = tokens  # fewer of so many may fit now, if the gate was asked for more of less
        elif isinstance(answer, Suspect):
            self._say(Closed.SUSPECT)
            self._leases.wait_for_change(UNFIT_SECONDS)
        elif not answer:
            self._say(None)
            self._wait_for_wake()

    def _take(self, verdict: Verdict) -> tuple[Taken, ...] | Unfit | Suspect:
        claims = [secrets.token_hex(16) for _ in range(verdict.jobs)]
        self._leases.add(claims)
        answer: tuple[Taken, ...] | Unfit | Suspect | None = None
        try:
            answer = self._store.run(
                verb.take(
                    self._model,
                    self._worker,
                    claims,
                    lease_seconds=self._leases.lease_seconds,
                    headroom=verdict.headroom,
                    capacity=self._capacity,
                    max_takes=self._max_takes,
                )
            )
        finally:
            # If a take was executed whose answer is lost, the next renew finds strangers and frees them.
            made = answer if isinstance(answer, tuple) else ()
            self._metrics.took(answer)
            leases = [self._leases.fill(taken) for taken in made]
            self._leases.drop(*set(claims).difference(taken.claim for taken in made))
        if leases:
            self._likely_tokens = min(max(lease.tokens for lease in leases), self._capacity)
            self._pass_on(leases)
        return answer

    def _pass_on(self, leases: list[Lease]) -> None:
        """Hand jobs over, unless the gate has closed while the take was under way. Their own claims are no reason."""
        closed = self._judge().closed
        if closed in (Closed.DRAINING, Closed.ENGINE, Closed.GPU_MEMORY):
            for lease in leases:
                self.give_back(lease, f"gate_closed_{closed}")
        else:
            self._say(None)
            self._hand_over(leases)

    def give_back(self, lease: Lease, cause: str) -> None:
        """Release a job that no task has begun."""
        lease.lost.set()
        self._metrics.handed_back(cause)
        try:
            self._store.run(verb.release(lease.job_id, lease.claim, cause))
        except NowservingError as error:
            log.warning("%s could not be released now (%s): the heartbeat will", lease.job_id, error.message)
        finally:
            self._leases.drop(lease.claim)

    def _wait_for_room(self, tokens: int) -> None:
        until = time.monotonic() + UNFIT_SECONDS
        while time.monotonic() < until and not self._stopping.is_set():
            verdict = self._judge()
            if verdict.closed is None and verdict.headroom >= tokens:
                return
            if verdict.closed and not verdict.closed.by_memory:
                return
            self._leases.wait_for_change(LOOK_SECONDS)

    def _wait_for_wake(self) -> None:
        try:
            reply = self._store.client.xread({keys.wake(self._model): self._seen_wake}, count=1, block=WAKE_MS)
        except (redis.RedisError, OSError) as error:
            raise self._store.refused(error) from error
        for _, entries in cast(list[tuple[str, list[tuple[str, dict[str, str]]]]], reply):
            self._seen_wake = entries[-1][0]

    def _say(self, closed: Closed | None) -> None:
        if closed is not self._closed:
            self._closed = closed
            self._changed(closed)
