"""One worker: the model it serves, and the threads that do so beside Celery's own."""

from __future__ import annotations

import gc
import logging
import os
import threading
from dataclasses import replace
from typing import Any

from nowserving.catalog import Model
from nowserving.errors import EngineError
from nowserving.settings import Settings
from workers.engines.engine import Capacity
from workers.engines.load import make_engine
from workers.gate import Closed, Reading, Verdict, decide, most_tokens
from workers.generate import Generation
from workers.loading import Loading
from workers.memory import make_probe
from workers.metrics import Figures, JobMetrics
from workers.pod import find_pod
from workers.progress import Progress
from workers.room import Room
from workers.serving import Serving

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.05
"""How often the engine is looked at, whatever the taker waits for."""


SHOWN = {
    "used_bytes": "device_used_bytes",
    "limit_bytes": "device_limit_bytes",
    "room_bytes": "room_bytes",
    "promised_bytes": "promised_bytes",
    "budget_bytes": "budget_bytes",
}
"""What GET /v1/workers calls the sizes that it shows."""


class Worker(Serving):
    """Loads the engine, then takes and runs jobs until drained."""

    def __init__(self, settings: Settings, model: Model) -> None:
        self.model = model
        self._progress = Progress(settings.lease_seconds)
        self._capacity: Capacity | None = None
        metrics = JobMetrics(model.name)
        super().__init__(settings, model.name, model.slots, metrics)
        probe = make_probe(settings.memory_probe)
        self._loading = Loading(self._heartbeat.kick)
        self._loading.note("import")
        self._engine = make_engine(model, settings.cache_dir, self._loading.note, settings.builtin_dir)
        self._loading.note("")
        elsewhere = getattr(self._engine, "memory_elsewhere", False)
        self._room = Room(probe, model.memory_fraction, settings.memory_limit_bytes, elsewhere)
        self._generation = Generation(self._store, self.leases, self._engine, settings.max_attempts, metrics)
        self._pod = find_pod(lambda: self.leases.idle.seconds, metrics.patched)

    def run(self, job_id: str, claim: str) -> str:
        """Run a job; see Generation."""
        return self._generation.run(job_id, claim)

    def _load(self) -> int:
        if self._pod:
            self._pod.start()
        self._generation.start()
        capacity = self._engine.start()
        self._loading.note("")
        self._room.begin()
        self._capacity = capacity
        gc.collect()
        gc.freeze()  # What is there now stays: no collection, of which each out of memory makes one, need look at it.
        return most_tokens(self._engine.cost, (), capacity.budget_bytes, capacity.context_tokens)

    def _ready(self) -> None:
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        room = f"{self.slots} slots, {self._engine.capacity().budget_bytes >> 20} MB for jobs"
        log.info("%s is ready: %s; %s", self.name, room, self._loading)

    def close(self) -> None:
        """Let go of what is left once no job runs any more."""
        self._signed_off.set()
        if self._pod:
            self._pod.stop()
        if self._turns():
            self._engine.close()
        super().close()

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
            unwritten = "the writer's thread has ended" if self._generation.dead else ""
            self._failure = health.reason or unwritten or f"no step in {self._progress.limit_seconds:g} s"
        self._state, self._closed = "failed", Closed.ENGINE
        sentence = f"the engine is dead: {self._failure}"
        if not health.alive:
            # One that hangs may yet end them itself, and its jobs are for the leases to free.
            self._generation.abandon(EngineError(sentence))
        self._heartbeat.kick()
        self._end(sentence, os.EX_SOFTWARE)

    def _judge(self, likely_tokens: int) -> Verdict:
        if self._capacity is None:
            return Verdict(Closed.ENGINE)
        return decide(self._read(self._capacity, likely_tokens), self._engine.cost)

    def _read(self, capacity: Capacity, likely_tokens: int) -> Reading:
        jobs, health = self.leases.jobs(), self._engine.health()
        return Reading(
            draining=self._stops(),
            engine_ready=self._turns() and not health.away,
            slots=capacity.slots,
            running=tuple(lease.tokens for lease in jobs),
            unallocated=tuple(lease.tokens for lease in jobs if not lease.begun),
            room_bytes=self._room.left_bytes(self._room.measure(), capacity.budget_bytes, capacity.step_bytes),
            budget_bytes=capacity.budget_bytes,
            context_tokens=capacity.context_tokens,
            likely_tokens=likely_tokens,
            engine_full=bool(health.full),
        )

    def _turns(self) -> bool:
        """Whether the engine's loop does, or has not begun to."""
        if self._capacity is None:
            return True
        health = self._engine.health()
        return self._progress.note(health.steps) and health.alive and not self._generation.dead

    def _renews(self) -> bool:
        """Not while the engine hangs: others are to get its jobs. One that has died gives them back itself."""
        return self._turns() or not self._engine.health().alive

    def _detail(self) -> str:
        return self._failure or self._loading.detail

    def _describe(self) -> tuple[bool, bool, dict[str, Any]]:
        draining, blocked, info = super()._describe()
        info |= {"engine": self.model.engine, "start_seconds": self._loading.seconds}
        sizes = self._sizes()
        if "device_used_bytes" in sizes:
            info["memory"] = {name: sizes[size] for name, size in SHOWN.items()}
        return draining, blocked, info

    def _figures(self) -> Figures:
        return replace(super()._figures(), sizes=self._sizes())

    def _sizes(self) -> dict[str, int]:
        """What is known of memory's sizes, by their names in metrics."""
        if not (capacity := self._capacity):
            return {}
        sizes = {
            "promised_bytes": self._engine.cost([lease.tokens for lease in self.leases.jobs()]),
            "budget_bytes": capacity.budget_bytes,
        }
        if memory := self._room.measure():
            sizes |= {
                "room_bytes": self._room.left_bytes(memory, capacity.budget_bytes, capacity.step_bytes),
                "device_used_bytes": memory.used_bytes,
                "device_free_bytes": memory.free_bytes,
                "device_total_bytes": memory.total_bytes,
                "device_limit_bytes": self._room.limit_bytes,
            }
            if memory.own_bytes is not None:
                sizes["device_allocated_bytes"] = memory.own_bytes
        return sizes


def _by_memory(closed: Closed | None) -> bool:
    return closed is not None and closed.by_memory
