"""A burst of jobs for a cluster that sleeps, until it sleeps again, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from nowserving import keys
from nowserving.job import Job, Status
from nowserving.keda.render import grace_seconds
from nowserving.settings import Settings
from nowserving.store import Store
from tests.child_process import ChildProcess
from tests.keda.clock import Clock
from tests.keda.cluster import Cluster, Costs
from tests.keda.scaled_object import ScaledObject
from tests.keda.scaler import redis_scaler
from tests.keda.view import View
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, noop

TOKEN_SECONDS = 0.1


@dataclass(frozen=True)
class Load:
    """How many jobs, and how many tokens each makes. Of a worker's `slots` each makes a token every TOKEN_SECONDS."""

    tokens: Sequence[int]
    slots: int

    @property
    def least_replica_seconds(self) -> float:
        """Real seconds of workers that all this would take if each had all its slots in use from start to end."""
        return sum(self.tokens) * TOKEN_SECONDS / self.slots


@dataclass(frozen=True)
class Outcome:
    """What came of it. All seconds are the clock's."""

    jobs: Sequence[Job]
    first_asked: float
    """From the burst to the first replica being asked for."""
    peak: int
    peak_asked: float
    first_started: float
    """Till the first job ran."""
    waits: Sequence[float]
    last_ended: float
    replica_seconds: float
    """From each pod's beginning to its end: what is paid for."""
    least_replica_seconds: float
    slept: bool
    """No pod was left in the end."""
    stopped_busy: int
    """Pods told to end that had jobs."""
    stopped_busy_beside_idle: int
    killed: int

    @property
    def handed_back(self) -> int:
        """How often a job was taken once more than once."""
        return sum(job.takes - 1 for job in self.jobs)

    def wait(self, percent: int) -> float:
        """So many percent of the jobs ran by then."""
        return quantiles(self.waits, n=100, method="inclusive")[percent - 1]


class Burst:
    """One cluster and one load, at one speed."""

    def __init__(
        self,
        scaled: ScaledObject,
        load: Load,
        store: Store,
        redis_url: str,
        folder: Path,
        speed: float,
        *,
        costs: Costs | None = None,
        drain_seconds: float = 30,
        make: Callable[[str], ChildProcess] | None = None,
    ) -> None:
        """`costs` are by default what a worker sets on its own pod; `make` makes another worker for a pod."""
        self.clock = Clock(speed)
        self.load, self.store = load, store
        self.ids: list[str] = []
        catalog = noop(load.slots, f"noop:1000000@{TOKEN_SECONDS}")
        drain = self.clock.real(drain_seconds)

        def worker(_: str) -> ChildProcess:
            return WorkerProcess(redis_url, folder, catalog, drain_seconds=drain)

        view = View(store, MODEL)
        grace = grace_seconds(Settings(drain_seconds=drain))
        self.cluster = Cluster(
            scaled, self.clock, redis_scaler(store.client), view, make or worker, grace, costs or self.costs_of_busy
        )
        self._view = view

    def costs_of_busy(self) -> dict[str, int]:
        """Each pod's deletion cost as a worker sets its own: something while it has jobs."""
        busy = self._view.busy()
        return {life.pod.name: 100 for life in self.cluster.active if life.process.pid in busy}

    def see_through(self, patience_seconds: float) -> Outcome:
        """Submit, and go on until all jobs have ended and what may go has gone. Real seconds, for each of the two."""
        self.submit()
        self.cluster.run(self.ended, patience_seconds)
        if not self.cluster.scaled.min_replicas:
            self.cluster.run(lambda: self.cluster.empty, patience_seconds)
        return self.outcome()

    def submit(self) -> None:
        """All jobs at once."""
        with self.clock.stopped():
            for index, tokens in enumerate(self.load.tokens):
                self.ids.append(enqueue(self.store, f"job {index}", parameters={"max_new_tokens": tokens}))
        self._submitted_at = self.clock.now()
        self._submitted_unix = time.time()

    def ended(self) -> bool:
        """No job waits or runs."""
        client = self.store.client
        places = (keys.queue(MODEL), keys.queue(MODEL, "batch"), keys.DELAYED + MODEL, keys.RUNNING + MODEL)
        return not any(client.zcard(key) for key in places)

    def outcome(self) -> Outcome:
        """What came of it; every job must have ended."""
        jobs = [look(self.store, job_id) for job_id in self.ids]
        assert all(job.status is Status.SUCCEEDED for job in jobs), [job.status for job in jobs]
        speed, steps, lives = self.clock.speed, self.cluster.steps, self.cluster.lives
        peak = max(step.after for step in steps)
        now = self.clock.now()
        waits = [max(0.0, (job.started_at or 0) - self._submitted_unix) * speed for job in jobs]
        return Outcome(
            jobs=jobs,
            first_asked=next(step.at for step in steps if step.after) - self._submitted_at,
            peak=peak,
            peak_asked=next(step.at for step in steps if step.after == peak) - self._submitted_at,
            first_started=min(waits),
            waits=waits,
            last_ended=max((job.finished_at or 0) - self._submitted_unix for job in jobs) * speed,
            replica_seconds=sum((life.ended_at or now) - life.began_at for life in lives),
            least_replica_seconds=self.load.least_replica_seconds * speed,
            slept=self.cluster.empty,
            stopped_busy=sum(life.busy_when_told for life in lives),
            stopped_busy_beside_idle=sum(min(life.busy_when_told, life.idle_left) for life in lives),
            killed=sum(life.killed for life in lives),
        )
