"""One worker: the model it serves, and the threads that do so beside Celery's own."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from nowserving import __version__
from nowserving.catalog import Model
from nowserving.errors import (
    EngineError,
    EngineUnavailableError,
    NowservingError,
    OutOfMemoryError,
    StoreUnavailableError,
)
from nowserving.job import rfc3339
from nowserving.settings import Settings
from nowserving.store import Store, connect
from nowserving.verb import leave
from workers.drain import Drain
from workers.engines.engine import Capacity
from workers.engines.load import make_engine
from workers.gate import Closed, Reading, Verdict, decide, most_tokens
from workers.generate import Generation
from workers.heartbeat import Heartbeat
from workers.lease import Lease, Leases
from workers.loading import Loading
from workers.memory import make_probe
from workers.progress import Progress
from workers.room import Room
from workers.taker import Taker

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.05
"""How often the engine is looked at, whatever the taker waits for."""


class Worker:
    """Loads the engine, then takes and runs jobs until drained. Names itself anew in each process."""

    def __init__(self, settings: Settings, model: Model) -> None:
        self.model = model
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._settings = settings
        self._started_at = time.time()
        self._state = "loading"
        self._draining = threading.Event()
        self._once = threading.Lock()
        self._started = False
        self._progress = Progress(settings.lease_seconds)
        self._consuming: Callable[[], bool] = lambda: False
        self._give_up: Callable[[str, int], None] = lambda sentence, code: None
        self._closed: Closed | None = Closed.ENGINE
        self._store = Store(connect(settings.redis_url.get_secret_value()))
        probe = make_probe(settings.memory_probe)
        self._capacity: Capacity | None = None
        self._failure = ""
        self._signed_off = threading.Event()
        self.leases = Leases(settings.lease_seconds)
        self._heartbeat = Heartbeat(
            self._store,
            self.leases,
            model.name,
            self.name,
            settings.max_attempts,
            self._describe,
            self._renews,
        )
        self._loading = Loading(self._heartbeat.kick)
        self._loading.note("import")
        self._engine = make_engine(model, settings.cache_dir, self._loading.note)
        self._loading.note("")
        elsewhere = getattr(self._engine, "memory_elsewhere", False)
        self._room = Room(probe, model.memory_fraction, settings.memory_limit_bytes, elsewhere)
        self.generation = Generation(self._store, self.leases, self._engine, settings.max_attempts)
        self._drain = Drain(
            self.leases, settings.drain_seconds, self._turns, self._renews, self.give_back, self._sign_off
        )
        self._taker: Taker | None = None

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
        self._consuming, self._give_up = consuming, give_up
        self._store.on_demoted = reconnect
        threading.Thread(target=self._load, args=(hand_over,), name="load", daemon=True).start()

    def _load(self, hand_over: Callable[[list[Lease]], None]) -> None:
        try:
            if not self._check():
                return
            self._heartbeat.start()
            capacity = self._engine.start()
            self._loading.note("")
            self._room.begin()
        except NowservingError as error:
            passing = isinstance(error, EngineUnavailableError | OutOfMemoryError)
            self._end(error.message, os.EX_TEMPFAIL if passing else os.EX_CONFIG)
            return
        except BaseException as error:  # a user's engine may call sys.exit, which ends a thread in silence
            log.exception("the engine did not start")
            self._end(f"the engine of {self.model.name} did not start: {error!r}", os.EX_SOFTWARE)
            return
        self._capacity = capacity
        self._state, self._closed = "ready", None
        gc.collect()
        gc.freeze()  # What is there now stays: no collection, of which each out of memory makes one, need look at it.
        self._taker = Taker(
            self._store,
            self.leases,
            self.model.name,
            self.name,
            self._settings.max_takes,
            most_tokens(self._engine.cost, (), capacity.budget_bytes, capacity.context_tokens),
            self._judge,
            hand_over,
            self._note,
        )
        self._taker.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        room = f"{capacity.slots} slots, {capacity.budget_bytes >> 20} MB for jobs"
        log.info("%s is ready: %s; %s", self.name, room, self._loading)
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
        """Take no more, let running jobs finish for drain_seconds, hand the rest back. Blocks till that is done."""
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
        """Let go of what is left once no job runs any more."""
        self._signed_off.set()
        if self._turns():
            self._engine.close()
        self._store.close()

    def give_back(self, lease: Lease, cause: str) -> None:
        """A job that no task has begun goes back to the queue."""
        if self._taker:
            self._taker.give_back(lease, cause)

    def _sign_off(self) -> None:
        if self._taker:
            self._taker.join()
        self._heartbeat.stop()
        self._signed_off.set()
        try:
            self._store.run(leave(self.model.name, self.name))
        except NowservingError as error:
            log.warning("could not sign off (%s): the lease will", error.message)

    def _note(self, closed: Closed | None) -> None:
        was = self._closed
        self._closed = closed
        if _by_memory(was) != _by_memory(closed) or Closed.ENGINE in (was, closed):
            health = self._engine.health()
            why = health.away or (health.full if _by_memory(closed) else "")
            log.info("the gate is %s", f"closed: {closed}{why and f' ({why})'}" if closed else "open")
            self._heartbeat.kick()

    def _watch(self) -> None:
        """See at once that the engine has died, or that it hangs; the taker may be waiting for a job just then."""
        while not self._signed_off.wait(WATCH_SECONDS):
            if not self._turns():
                self._fail()
                return

    def _fail(self) -> None:
        """The engine is of no use any more: end its jobs, say why, and let a fresh process take over. Done once."""
        health = self._engine.health()
        with self._once:
            if self._failure or self._signed_off.is_set():
                return
            self._failure = health.reason or f"no step in {self._progress.limit_seconds:g} s"
        self._state, self._closed = "failed", Closed.ENGINE
        sentence = f"the engine is dead: {self._failure}"
        if not health.alive:
            # One that hangs may yet end them itself, and its jobs are for the leases to free.
            self.generation.abandon(EngineError(sentence))
        self._heartbeat.kick()
        self._end(sentence, os.EX_SOFTWARE)

    def _end(self, sentence: str, code: int) -> None:
        self._drain.exit_code = code
        self._give_up(sentence, code)

    def _judge(self) -> Verdict:
        if self._capacity is None:
            return Verdict(Closed.ENGINE)
        return decide(self._read(self._capacity), self._engine.cost)

    def _read(self, capacity: Capacity) -> Reading:
        jobs, health = self.leases.jobs(), self._engine.health()
        return Reading(
            # A job handed to a Celery that does not consume would lie there.
            draining=self._draining.is_set() or not self._consuming(),
            engine_ready=self._turns() and not health.away,
            slots=capacity.slots,
            running=tuple(lease.tokens for lease in jobs),
            unallocated=tuple(lease.tokens for lease in jobs if not lease.begun),
            room_bytes=self._room.left_bytes(self._room.measure(), capacity.budget_bytes, capacity.step_bytes),
            budget_bytes=capacity.budget_bytes,
            context_tokens=capacity.context_tokens,
            engine_full=bool(health.full),
        )

    def _turns(self) -> bool:
        """Whether the engine's loop does, or has not begun to."""
        if self._capacity is None:
            return True
        health = self._engine.health()
        return self._progress.note(health.steps) and health.alive

    def _renews(self) -> bool:
        """Not while the engine hangs: others are to get its jobs. One that has died gives them back itself."""
        return self._turns() or not self._engine.health().alive

    def _describe(self) -> tuple[bool, bool, dict[str, Any]]:
        closed = Closed.DRAINING if self._draining.is_set() and not self._failure else self._closed
        jobs = self.leases.jobs()
        info: dict[str, Any] = {
            "state": self._state,
            "detail": self._failure or self._loading.detail,
            "slots": self.model.slots,
            "running": len(jobs),
            "gate": {"open": closed is None, "reason": closed},
            "engine": self.model.engine,
            "started_at": rfc3339(self._started_at),
            "version": __version__,
            "start_seconds": self._loading.seconds,
        }
        if (capacity := self._capacity) and (memory := self._room.measure()):
            info["memory"] = {
                "used_bytes": memory.used_bytes,
                "limit_bytes": self._room.limit_bytes,
                "room_bytes": self._room.left_bytes(memory, capacity.budget_bytes, capacity.step_bytes),
                "promised_bytes": self._engine.cost([lease.tokens for lease in jobs]),
                "budget_bytes": capacity.budget_bytes,
            }
        return self._draining.is_set(), _by_memory(closed), info


def _by_memory(closed: Closed | None) -> bool:
    return closed is not None and closed.by_memory
