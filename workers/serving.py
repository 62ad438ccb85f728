"""What a Celery process of ours does beside Celery, whatever it takes: how it starts, keeps its claims, and ends."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from nowserving import __version__, keys
from nowserving.errors import EngineUnavailableError, NowservingError, OutOfMemoryError, StoreUnavailableError
from nowserving.job import rfc3339
from nowserving.settings import Settings
from nowserving.store import Store, connect
from nowserving.verb import leave
from workers import heartbeat
from workers.drain import Drain
from workers.gate import Closed, Verdict
from workers.heartbeat import Heartbeat
from workers.lease import Lease, Leases
from workers.metrics import Figures, Metrics
from workers.port import Port
from workers.taker import Taker

log = logging.getLogger(__name__)


class Serving(ABC):
    """Takes from the queue of `model` and runs that until drained. Names itself anew in each process."""

    def __init__(self, settings: Settings, model: str, slots: int, metrics: Metrics) -> None:
        self.queue = keys.queue(model)
        """Redis's key and Celery's name of it."""
        self.slots = slots
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.leases = Leases(settings.lease_seconds)
        self._settings, self._model_name = settings, model
        self._started_at = time.time()
        self._state = "loading"
        self._failure = ""
        self._closed: Closed | None = Closed.ENGINE
        self._draining, self._signed_off = threading.Event(), threading.Event()
        self._once = threading.Lock()
        self._started = False
        self._hand_over: Callable[[list[Lease]], None] = lambda leases: None
        self._consuming: Callable[[], bool] = lambda: False
        self._give_up: Callable[[str, int], None] = lambda sentence, code: None
        self._store = Store(connect(settings.redis_url.get_secret_value()))
        self._heartbeat = Heartbeat(
            self._store, self.leases, model, self.name, settings.max_attempts, self._describe, self._renews
        )
        self._drain = Drain(
            self.leases, settings.drain_seconds, self._turns, self._renews, self.give_back, self._sign_off
        )
        self._taker: Taker | None = None
        self._metrics = metrics
        self._metrics.watch(self._figures)
        self._heartbeat.on_failure, self.leases.on_lost = metrics.missed_beat, metrics.lost
        self._heartbeat.on_unbegun = self._note_unbegun
        self._unbegun: tuple[float, int] | None = None
        """When jobs were found that no task had begun, and how often one had by then."""

    def listen(self) -> None:
        """Open a port of its own, if it is to have one. Raises SettingsError."""
        if self._settings.worker_port:
            Port(self._settings.worker_port, self._why_unready, self._why_dead, self._metrics.write)

    @abstractmethod
    def run(self, job_id: str, claim: str) -> str:
        """Bring to its end what was taken, and say how. Raises ClaimLostError if the claim is not valid."""

    @abstractmethod
    def _load(self) -> int:
        """Get ready to run what is taken; the largest of it, in tokens. Raises NowservingError."""

    @abstractmethod
    def _judge(self, likely_tokens: int) -> Verdict:
        """Ask the gate, where those that wait are likely to have so many tokens each."""

    def start(
        self,
        hand_over: Callable[[list[Lease]], None],
        consuming: Callable[[], bool],
        reconnect: Callable[[], None],
        give_up: Callable[[str, int], None],
    ) -> None:
        """Check Redis, beat, load, and take, in a thread of its own. Done once.

        `hand_over` puts jobs on Celery's loop, `consuming` says whether that would run them now; `reconnect` lets it
        look for Redis anew; `give_up` ends the process with a sentence and an exit code.
        """
        with self._once:
            if self._started:
                return
            self._started = True
        self._hand_over, self._consuming, self._give_up = hand_over, consuming, give_up
        self._store.on_demoted = reconnect
        threading.Thread(target=self._begin, name="load", daemon=True).start()

    def _begin(self) -> None:
        try:
            if not self._check():
                return
            self._heartbeat.start()
            capacity_tokens = self._load()
        except NowservingError as error:
            passing = isinstance(error, EngineUnavailableError | OutOfMemoryError)
            self._end(error.message, os.EX_TEMPFAIL if passing else os.EX_CONFIG)
            return
        except BaseException as error:  # a user's engine may call sys.exit, which ends a thread in silence
            log.exception("%s did not start", self._model_name)
            self._end(f"the engine of {self._model_name} did not start: {error!r}", os.EX_SOFTWARE)
            return
        self._state, self._closed = "ready", None
        self._taker = Taker(
            self._store,
            self.leases,
            self._model_name,
            self.name,
            self._settings.max_takes,
            capacity_tokens,
            self._judge,
            self._hand_over,
            self._note,
            self._metrics,
        )
        self.leases.idle.count()
        self._taker.start()
        self._ready()
        self._heartbeat.kick()

    def _check(self) -> bool:
        """Wait while Redis is away; False if the worker is to stop meanwhile. Raises UnsuitableRedisError."""
        while not self._draining.is_set():
            try:
                self._store.check()
                return True
            except StoreUnavailableError as error:
                log.warning("cannot begin: %s", error.message)
                self._draining.wait(1.0)
        return False

    def drain(self) -> None:
        """Take no more, let what runs finish for drain_seconds, hand the rest back. Blocks till that is done."""
        with self._once:
            first = not self._draining.is_set()
            self._draining.set()
        if not first:
            self._drain.wait()
            return
        self._state = "failed" if self._failure else "draining"
        self._heartbeat.kick()
        if self._taker:
            self._taker.stop()
        self._drain.run()

    def stop_soon(self, at_once: bool = False) -> None:
        """A signal: drain, on a thread of its own. A second one, or `at_once`, hands back without waiting."""
        if at_once or self._draining.is_set():
            self._drain.hurry()
        threading.Thread(target=self.drain, name="drain", daemon=True).start()

    def close(self) -> None:
        """Let go of what is left once nothing runs any more."""
        self._signed_off.set()
        self._store.close()

    def give_back(self, lease: Lease, cause: str) -> None:
        """What no task has begun goes back to the queue."""
        if self._taker:
            self._taker.give_back(lease, cause)

    def _sign_off(self) -> None:
        if self._taker:
            self._taker.join()
        self._heartbeat.stop()
        self._signed_off.set()
        try:
            self._store.run(leave(self._model_name, self.name))
        except NowservingError as error:
            log.warning("could not sign off (%s): the lease will", error.message)

    def _end(self, sentence: str, code: int) -> None:
        self._drain.exit_code = code
        self._give_up(sentence, code)

    def _note_unbegun(self) -> None:
        """Twice with no task begun in between: Celery's loop hangs, and would be handed jobs for ever."""
        now, begins = time.monotonic(), self.leases.begins
        if self._unbegun is None or self._unbegun[1] != begins:
            self._unbegun = (now, begins)
        elif now - self._unbegun[0] >= heartbeat.HANDOVER_SECONDS and not self._draining.is_set():
            self._failure = "Celery runs nothing that it is handed"
            self._end(self._failure, os.EX_SOFTWARE)
            self.stop_soon()  # a loop that hangs does not hear of it

    def _stops(self) -> bool:
        """Whether nothing may be taken. What is handed to a Celery that does not consume would lie there."""
        return self._draining.is_set() or not self._consuming()

    def _ready(self) -> None:
        """It takes from now on."""
        log.info("%s is ready: %d slots", self.name, self.slots)

    def _note(self, closed: Closed | None) -> None:
        """Hear of each change of why nothing is taken."""
        self._closed = closed

    def _turns(self) -> bool:
        """Whether what runs goes on, as far as this can be told."""
        return True

    def _renews(self) -> bool:
        """Whether leases are renewed: others are to get what hangs here."""
        return True

    def _why_unready(self) -> str:
        """Not ready = not loaded, and nothing else. Who drains, or is cut off from Redis, may be running jobs, and of
        several pods Kubernetes stops one that is not ready first.
        """
        return self._failure or ("" if self._taker else self._detail() or self._state)

    def _why_dead(self) -> str:
        """Whether a fresh process would do better; Redis is asked for nothing, and its absence is no reason."""
        if self._signed_off.is_set():
            return ""
        if self._taker and self._taker.dead:
            return "the taker's thread has ended"
        turns = self._turns()
        return self._failure or self._heartbeat.why_still() or ("" if turns else "the engine's loop does not turn")

    def _detail(self) -> str:
        """How far it has come, or why it failed."""
        return self._failure

    def _gate(self) -> Closed | None:
        return Closed.DRAINING if self._draining.is_set() and not self._failure else self._closed

    def _figures(self) -> Figures:
        idle_seconds = self.leases.idle.total_seconds
        return Figures(not self._why_unready(), self.slots, len(self.leases.jobs()), self._gate(), idle_seconds)

    def _describe(self) -> tuple[bool, bool, dict[str, Any]]:
        closed = self._gate()
        info: dict[str, Any] = {
            "state": self._state,
            "detail": self._detail(),
            "slots": self.slots,
            "running": len(self.leases.jobs()),
            "gate": {"open": closed is None, "reason": closed},
            "started_at": rfc3339(self._started_at),
            "version": __version__,
        }
        return self._draining.is_set(), closed is not None and closed.full, info
