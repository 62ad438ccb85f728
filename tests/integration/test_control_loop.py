"""A burst from zero and back to zero: KEDA, the HPA and the ReplicaSet in a model, keys and workers for real.

Time runs 60 times as fast for those who only wait: KEDA's 5 s are 83 ms, the 5 minutes that the HPA looks back are 5 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from nowserving.store import Store
from tests.child_process import ChildProcess
from tests.keda.burst import TOKEN_SECONDS, Burst, Load, Outcome
from tests.keda.cluster import Costs
from tests.keda.replica_set import DELETION_COST
from tests.keda.strategy import ours
from tests.pod_server import PodServer
from tests.worker_process import WorkerProcess, noop

SPEED = 60
PATIENCE_SECONDS = 60
SHORT, LONG = 6, 100
"""Tokens: 0.6 s, and 10 s, which is twice as long as the HPA looks back, so that it outlasts the others' workers."""
DRAIN_SECONDS = 30 / SPEED
TOTAL_BYTES = 1 << 30


class PodWorker(WorkerProcess):
    """A worker that says on its own pod whether it is busy."""

    app = "tests.pod_app"

    def __init__(self, server: PodServer, pod: str, redis_url: str, folder: Path, load: Load) -> None:
        super().__init__(redis_url, folder, catalog(load), drain_seconds=DRAIN_SECONDS)
        self._env |= server.environment(pod)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PodServer]:
    with PodServer(tmp_path / "kubernetes") as made:
        yield made


@pytest.fixture
def start(live: Store, redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Burst]:
    """`start(load)`: a burst on a cluster that sleeps; what still runs is killed with the test."""

    def start(load: Load, make: Callable[[str], ChildProcess] | None = None, costs: Costs | None = None) -> Burst:
        burst = Burst(ours(load.slots), load, live, redis_url, tmp_path, SPEED, make=make, costs=costs)
        request.addfinalizer(burst.cluster.close)
        return burst

    return start


def needed(seen: Mapping[str, float], slots: int) -> int:
    """How many workers the keys call for, in plain words: the design's formula, not the manifest's text."""
    waiting = seen["queued"] + seen["queued_batch"]
    beside_blocked = seen["blocked"] + math.ceil(waiting / slots) if waiting else 0
    return math.ceil(max(seen["busy"], (waiting + seen["delayed"] + seen["running"]) / slots, beside_blocked))


def serve(burst: Burst) -> Outcome:
    """Till all jobs have ended: that the cluster sleeps again is shown once."""
    burst.submit()
    burst.cluster.run(burst.ended, PATIENCE_SECONDS)
    return burst.outcome()


def catalog(load: Load) -> str:
    return noop(load.slots, f"noop:1000000@{TOKEN_SECONDS}")


def test_a_burst_wakes_the_cluster_is_served_whole_and_lets_it_sleep_again(
    start: Callable[..., Burst], server: PodServer, redis_url: str, tmp_path: Path
) -> None:
    load = Load([SHORT] * 98 + [LONG] * 2, slots=4)

    def make(pod: str) -> PodWorker:
        return PodWorker(server, pod, redis_url, tmp_path, load)

    def costs() -> dict[str, int]:
        return {pod: int(said.get(DELETION_COST, 0)) for pod, said in server.pods.items()}

    burst = start(load, make, costs)
    outcome = burst.see_through(PATIENCE_SECONDS)
    # Each job ran once, to its end: nobody was stopped in the middle, not even with the little time to drain there is.
    assert [(job.takes, (job.output or {})["usage"]["completion_tokens"]) for job in outcome.jobs] == [
        (1, tokens) for tokens in load.tokens
    ]
    # From nothing to all that is allowed: one look of KEDA's, one of the HPA's. Never more than the keys call for.
    steps = burst.cluster.steps
    assert [(step.by, step.before, step.after) for step in steps[:2]] == [("keda", 0, 1), ("hpa", 1, 4)]
    assert all(step.after <= max(1, needed(step.seen, load.slots)) for step in steps if step.after > step.before)
    # Those with nothing to do went first, by what each had written on its pod, while others were busy.
    shrank_beside_busy = [step for step in steps if step.after < step.before and step.seen["busy"]]
    assert shrank_beside_busy, "the long jobs ended too soon: this shows nothing"
    assert all(step.after >= needed(step.seen, load.slots) for step in shrank_beside_busy)
    assert (outcome.stopped_busy, outcome.stopped_busy_beside_idle, outcome.killed) == (0, 0, 0)
    assert {patch.annotations[DELETION_COST] for patch in server.patches} == {"0", "100"}
    # The last one was stopped 5 minutes after the last job, not before.
    assert (steps[-1].by, steps[-1].after) == ("keda", 0)
    assert steps[-1].at > outcome.last_ended + 300 - 5


@pytest.mark.parametrize("ballast", [False, True], ids=["", "one worker full"])
def test_a_worker_whose_memory_is_taken_is_replaced_by_one_more(
    start: Callable[..., Burst], redis_url: str, tmp_path: Path, ballast: bool
) -> None:
    load = Load([SHORT] * 100, slots=100)

    def make(pod: str) -> WorkerProcess:
        memory = tmp_path / f"{pod}.memory"
        used_bytes = TOTAL_BYTES if ballast and pod == "worker-0" else 0
        memory.write_text(f"{used_bytes} {TOTAL_BYTES}")
        settings = {"memory_probe": f"file:{memory}", "drain_seconds": DRAIN_SECONDS}
        return WorkerProcess(redis_url, tmp_path, catalog(load), **settings)

    burst = start(load, make)
    outcome = serve(burst)
    assert outcome.peak == 1 + ballast
    assert outcome.handed_back == outcome.stopped_busy == outcome.killed == 0
    if ballast:
        asked = next(step for step in burst.cluster.steps if step.after == 2)
        assert (asked.seen["blocked"], asked.seen["queued"]) == (1, 100)


def test_without_deletion_costs_a_busy_worker_can_be_the_one_that_is_stopped(start: Callable[..., Burst]) -> None:
    """What the costs are for: turned round, they pick the busy ones, whose jobs others must take over."""
    load = Load([SHORT] * 30 + [LONG] * 2, slots=4)
    bursts: list[Burst] = []

    def turned() -> dict[str, int]:
        return {pod: -cost for pod, cost in bursts[0].costs_of_busy().items()}

    bursts.append(start(load, costs=turned))
    outcome = serve(bursts[0])
    assert outcome.stopped_busy_beside_idle > 0
    assert outcome.handed_back > 0
    stopped = next(life for life in bursts[0].cluster.lives if life.busy_when_told)
    assert stopped.pod.annotations[DELETION_COST].startswith("-")
