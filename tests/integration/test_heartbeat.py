"""The heartbeat on a real Redis: what it finds there that its worker does not know of."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from nowserving import keys, verb
from nowserving.job import Status
from nowserving.store import Store
from tests.worker_process import MODEL, enqueue, look
from workers import heartbeat as module
from workers.heartbeat import Heartbeat
from workers.lease import Leases

Eventually = Callable[..., None]

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


def test_a_heartbeat_that_waits_for_ever_says_so_and_one_that_was_stopped_does_not(
    live: Store, leases: Leases, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hang() -> bool:
        release.wait(20)
        return True

    heartbeat = Heartbeat(live, leases, MODEL, "w", 3, lambda: (False, False, {}), hang)
    assert heartbeat.why_still() == ""
    heartbeat.start()
    assert heartbeat.why_still() == ""
    monkeypatch.setattr(module, "STILL_SECONDS", 0.3)
    eventually(lambda: heartbeat.why_still().startswith("no heartbeat for "))
    release.set()
    eventually(lambda: heartbeat.why_still() == "")
    heartbeat.stop()
    assert heartbeat.why_still() == ""
