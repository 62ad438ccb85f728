"""A Deployment whose pods are real processes, and KEDA, the HPA and the ReplicaSet, who decide over them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import uuid4

from tests.child_process import ChildProcess
from tests.keda.clock import Clock
from tests.keda.hpa import SYNC_SECONDS, Hpa
from tests.keda.operator import Operator
from tests.keda.replica_set import DELETION_COST, Pod, victims
from tests.keda.scaled_object import ScaledObject
from tests.keda.scaler import Count
from tests.keda.view import View

READINESS_SECONDS = 5
"""The readiness probe's period."""
TICK_SECONDS = 0.01

Costs = Callable[[], Mapping[str, int]]
"""Each pod's deletion cost, by its name; those left out have none."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change of the Deployment's replicas, and what had been seen by who made it."""

    at: float
    by: str
    before: int
    after: int
    seen: Mapping[str, float]


@dataclass(slots=True)
class Life:
    """One pod and its process."""

    pod: Pod
    process: ChildProcess
    began_at: float
    told_at: float | None = None
    """When it was sent SIGTERM."""
    busy_when_told: bool = False
    idle_left: int = 0
    """How many idle pods stayed when it was told."""
    killed: bool = False
    """It outlived its grace."""
    ended_at: float | None = None


class Cluster:
    """Everything is driven by `run`, in the caller's thread. Times are the clock's seconds, but for the grace period's.

    A process that is told to end has real work to do, which no clock makes faster: `grace_seconds` are real ones.
    `make` makes the worker's process for the pod of a name, not yet started.
    """

    def __init__(
        self,
        scaled: ScaledObject,
        clock: Clock,
        count: Count,
        view: View,
        make: Callable[[str], ChildProcess],
        grace_seconds: float,
        costs: Costs,
    ) -> None:
        self.scaled, self.clock, self.view = scaled, clock, view
        self.replicas = 0
        self.steps: list[Step] = []
        self.lives: list[Life] = []
        """Of all pods there ever were."""
        self._make, self._grace_seconds, self._costs = make, grace_seconds, costs
        self._operator = Operator(scaled, count, clock.now())
        self._hpa = Hpa(scaled.hpa_min_replicas, scaled.max_replicas, scaled.up, scaled.down)
        self._poll_at = self._probe_at = clock.now()
        self._sync_at = clock.now() + SYNC_SECONDS / 2  # nothing ties its beat to KEDA's: on average half of it passes

    @property
    def active(self) -> list[Life]:
        """Pods that exist and were not told to end: what the Deployment's status counts."""
        return [life for life in self.lives if life.told_at is None and life.ended_at is None]

    @property
    def empty(self) -> bool:
        """No pod is left, not even one that is ending."""
        return self.replicas == 0 and all(life.ended_at is not None for life in self.lives)

    def run(self, until: Callable[[], bool], seconds: float) -> None:
        """Go on until this is true; an AssertionError after so many real seconds."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"not within {seconds:g} s; {self.replicas} replicas: {self.steps[-8:]}"
            self.tick()
            time.sleep(TICK_SECONDS)

    def tick(self) -> None:
        """What is due now: the kubelet's part, KEDA's, the HPA's, the ReplicaSet's."""
        now = self.clock.now()
        self._look_after(now)
        if now >= self._poll_at:
            self._poll_at = now + self.scaled.polling_seconds
            self._set("keda", self._operator.poll(now, self.replicas), now)
        if now >= self._sync_at:
            self._sync_at = now + SYNC_SECONDS
            metrics = self._operator.metrics(self.replicas) if self.replicas else []
            self._set("hpa", self._hpa.reconcile(now, self.replicas, len(self.active), metrics), now)
        surplus = len(self.active) - self.replicas
        for _ in range(-surplus):
            self._begin(now)
        if surplus > 0:
            self._end(surplus, now)

    def close(self) -> None:
        """Kill what still runs."""
        for life in self.lives:
            life.process.kill()
            life.ended_at = life.ended_at or self.clock.now()

    def _set(self, by: str, replicas: int, now: float) -> None:
        if replicas != self.replicas:
            self.steps.append(Step(now, by, self.replicas, replicas, dict(self._operator.last.values)))
            self.replicas = replicas

    def _begin(self, now: float) -> None:
        name = f"worker-{len(self.lives)}"
        process = self._make(name).start()
        self.lives.append(Life(Pod(name, "node", "Running", created_at=now, uid=uuid4().hex), process, now))

    def _end(self, surplus: int, now: float) -> None:
        """The ReplicaSet's part, by the costs that stand there now."""
        active, costs = self.active, self._costs()
        for life in active:
            life.pod.annotations = {DELETION_COST: str(costs.get(life.pod.name, 0))}
        chosen = {pod.name for pod in victims([life.pod for life in active], surplus, now)}
        busy = self.view.busy()
        idle_left = sum(life.process.pid not in busy for life in active if life.pod.name not in chosen)
        for life in active:
            if life.pod.name in chosen:
                life.told_at, life.busy_when_told = now, life.process.pid in busy
                life.idle_left = idle_left
                life.process.send(signal.SIGTERM)

    def _look_after(self, now: float) -> None:
        """The kubelet's part: the end of grace periods, processes that ended, readiness."""
        for life in self.lives:
            if life.ended_at is not None:
                continue
            if life.process.alive:
                if life.told_at is not None and now - life.told_at > self._grace_seconds * self.clock.speed:
                    life.killed = True
                    life.process.kill()
            elif life.told_at is not None:
                life.ended_at = now
            else:
                life.pod.restarts += 1
                life.pod.ready, life.pod.ready_at = False, None
                life.process.start()
        if now >= self._probe_at:
            self._probe_at = now + READINESS_SECONDS
            ready = self.view.ready()
            for life in self.active:
                was, life.pod.ready = life.pod.ready, life.process.pid in ready
                if life.pod.ready and not was:
                    life.pod.ready_at = now
