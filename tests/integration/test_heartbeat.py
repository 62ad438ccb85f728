"""The heartbeat on a real Redis: what it finds there that its worker does not know of."""

from __future__ import annotations

import pytest

from nowserving import keys, verb
from nowserving.job import Status
from nowserving.store import Store
from tests.worker_process import MODEL, enqueue, look
from workers.heartbeat import Heartbeat
from workers.lease import Leases

LEASE_SECONDS = 60.0


@pytest.fixture
def leases() -> Leases:
    return Leases(LEASE_SECONDS)


@pytest.fixture
def heartbeat(live: Store, leases: Leases) -> Heartbeat:
    return Heartbeat(live, leases, MODEL, "w", 3, lambda: (False, False, {}), lambda: True)


def take(store: Store, claim: str) -> None:
    store.run(verb.take(MODEL, "w", [claim], lease_seconds=LEASE_SECONDS, headroom=999, capacity=999, max_takes=9))


def test_a_take_whose_answer_was_lost_goes_back_with_the_next_beat(live: Store, heartbeat: Heartbeat) -> None:
    job_id = enqueue(live)
    take(live, "never-heard-of")
    assert look(live, job_id).status is Status.RUNNING
    heartbeat.beat()
    job = look(live, job_id)
    assert (job.status, job.attempt, job.takes) == (Status.QUEUED, 0, 0)
    assert live.client.zscore(keys.queue(MODEL), job_id) == job.sequence


def test_a_take_under_way_is_left_alone(live: Store, leases: Leases, heartbeat: Heartbeat) -> None:
    job_id = enqueue(live)
    leases.add(["under-way"])
    take(live, "under-way")
    heartbeat.beat()
    assert look(live, job_id).status is Status.RUNNING
