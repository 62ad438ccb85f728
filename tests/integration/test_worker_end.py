"""How workers end, well and badly, and what becomes of their jobs: real Celery workers on a real Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nowserving import keys, verb
from nowserving.event import is_terminal
from nowserving.job import Status
from nowserving.store import Store
from tests.invariant import story
from tests.proxy import CuttingProxy
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, noop, ready, statuses, workers

Eventually = Callable[..., None]
Start = Callable[..., WorkerProcess]

LEASE_SECONDS = 2.0
TOKENS = 50
SLOW = noop(slots=8, source=f"noop:{TOKENS}@0.06")
SLOWER = noop(slots=8, source=f"noop:{TOKENS}@0.5")
"""For the first of two workers: none of its jobs ends while the other one starts, however slow the machine is."""
LONG = {"max_new_tokens": TOKENS}
CALM = (TOKENS, " ".join(f"w{index}" for index in range(TOKENS)), 1)
"""What a job's stream tells when nothing happens to it: its tokens, their text, one terminal event."""


@pytest.fixture
def start(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    def begin(catalog: str = SLOW, **settings: object) -> WorkerProcess:
        process = WorkerProcess(redis_url, tmp_path, catalog, **{"lease_seconds": LEASE_SECONDS, **settings})
        request.addfinalizer(lambda: process.__exit__(None, None, None))
        return process.start()

    return begin


def hazard(name: str = "Hazard", source: str = "noop:20@0.05") -> str:
    return f'[models.{MODEL}]\nengine = "tests.engines:{name}"\nslots = 8\nsource = "{source}"\n'


def run_eight(live: Store, start: Start, eventually: Eventually, **settings: object) -> tuple[WorkerProcess, list[str]]:
    """A worker that runs 8 long jobs, each of which has made tokens."""
    worker = start(**settings)
    ids = [enqueue(live, parameters=LONG) for _ in range(8)]
    eventually(lambda: all(look(live, job_id).generated > 2 for job_id in ids), 30)
    return worker, ids


def names(live: Store) -> list[str]:
    """Keys and fields in which any worker stands."""
    kept = [keys.BUSY, keys.BLOCKED, keys.ALIVE, keys.WORKERS, keys.ALONE]
    found = list(live.client.scan_iter(keys.HELD + "*"))
    return found + [key for prefix in kept for key in live.client.scan_iter(prefix + "*")]


def test_a_killed_workers_eight_jobs_are_taken_over_in_time(live: Store, start: Start, eventually: Eventually) -> None:
    worker, ids = run_eight(live, start, eventually, catalog=SLOWER)
    start()
    eventually(lambda: ready(live, 2), 30)
    worker.kill()
    killed = time.monotonic()
    eventually(lambda: all(look(live, job_id).takes == 2 for job_id in ids), 20)
    assert time.monotonic() - killed < LEASE_SECONDS + 2
    eventually(lambda: statuses(live, ids) == {"succeeded": 8}, 30)
    assert [story(live, job_id) for job_id in ids] == [CALM] * 8
    assert [look(live, job_id).attempt for job_id in ids] == [0] * 8


def test_a_told_worker_hands_over_its_eight_jobs_and_exits(live: Store, start: Start, eventually: Eventually) -> None:
    worker, ids = run_eight(live, start, eventually, drain_seconds=2)
    worker.send(signal.SIGTERM)
    told = time.monotonic()
    assert worker.wait(10) == 0
    assert time.monotonic() - told < 4
    assert statuses(live, ids) == {"queued": 8}
    assert names(live) == []
    assert {look(live, job_id).attempt for job_id in ids} == {0}
    assert all(look(live, job_id).generated > 10 for job_id in ids)
    start()
    eventually(lambda: statuses(live, ids) == {"succeeded": 8}, 30)
    assert [story(live, job_id) for job_id in ids] == [CALM] * 8


def test_a_token_that_was_streamed_is_not_made_again(live: Store, start: Start, eventually: Eventually) -> None:
    first = start(hazard(), drain_seconds=0)
    job_id = enqueue(live)
    eventually(lambda: look(live, job_id).generated > 2, 30)
    first.send(signal.SIGTERM)
    assert first.wait(10) == 0
    made = look(live, job_id).generated
    second = start(hazard())
    eventually(lambda: f"{job_id} goes on after {made}" in second.output(), 20)


def test_a_second_signal_hands_back_at_once(live: Store, start: Start, eventually: Eventually) -> None:
    worker, ids = run_eight(live, start, eventually, drain_seconds=60)
    worker.send(signal.SIGTERM)
    eventually(lambda: workers(live)[0]["gate"] == {"open": False, "reason": "draining"})
    assert live.run(verb.queues([MODEL]))[0].busy == 0
    assert statuses(live, ids) == {"running": 8}
    worker.send(signal.SIGTERM)
    told = time.monotonic()
    assert worker.wait(10) == 0
    assert time.monotonic() - told < 3
    assert statuses(live, ids) == {"queued": 8}
    assert {look(live, job_id).attempt for job_id in ids} == {0}
    assert names(live) == []


def test_fifty_running_jobs_are_canceled_and_their_slots_free_within_a_second(
    live: Store, start: Start, eventually: Eventually
) -> None:
    start(noop(slots=50, source="noop:1000@0.2"), lease_seconds=15)
    long = {"max_new_tokens": 1000}
    ids = [enqueue(live, parameters=long) for _ in range(50)]
    eventually(lambda: all(look(live, job_id).generated > 0 for job_id in ids), 30)
    following = [enqueue(live, parameters=long) for _ in range(50)]
    canceled = time.monotonic()
    for job_id in ids:
        live.run(verb.cancel(job_id))
    assert statuses(live, ids) == {"canceled": 50}
    eventually(lambda: statuses(live, following) == {"running": 50})
    assert time.monotonic() - canceled < 1
    assert {story(live, job_id)[2] for job_id in ids} == {1}


def test_a_worker_that_stalls_finds_its_claims_lost_and_writes_nothing(
    live: Store, start: Start, eventually: Eventually
) -> None:
    stalled, ids = run_eight(live, start, eventually, catalog=SLOWER)
    start()
    eventually(lambda: ready(live, 2), 30)
    stalled.send(signal.SIGSTOP)
    eventually(lambda: all(look(live, job_id).takes == 2 for job_id in ids), 20)
    stalled.send(signal.SIGCONT)
    # It lets go of all slots, and is of use again.
    eventually(lambda: {worker["running"] for worker in workers(live)} == {0, 8}, 5)
    assert stalled.alive
    eventually(lambda: statuses(live, ids) == {"succeeded": 8}, 30)
    assert [story(live, job_id) for job_id in ids] == [CALM] * 8


def test_a_worker_that_redis_does_not_answer_stops_its_jobs_by_its_own_clock(
    live: Store, redis_url: str, eventually: Eventually, tmp_path: Path
) -> None:
    proxy = CuttingProxy(int(redis_url.rsplit(":", 1)[1].split("/")[0]), seed=1)
    try:
        with WorkerProcess(proxy.url, tmp_path, SLOW, lease_seconds=LEASE_SECONDS) as worker:
            job_id = enqueue(live, parameters=LONG)
            eventually(lambda: look(live, job_id).generated > 2, 30)
            proxy.rate = 1.0
            eventually(lambda: "the lease has ended" in worker.output(), LEASE_SECONDS + 1)
            proxy.rate = 0.0
            eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 30)
            assert look(live, job_id).takes == 2
            assert story(live, job_id) == CALM
    finally:
        proxy.close()


def test_one_job_that_kills_its_workers_fails_and_its_seven_neighbours_succeed(
    live: Store, start: Start, eventually: Eventually
) -> None:
    good = [enqueue(live) for _ in range(4)]
    bad = enqueue(live, prompt="kill")
    good += [enqueue(live) for _ in range(3)]
    ids = [*good, bad]
    worker = start(hazard(), lease_seconds=1)
    deaths = 0
    while statuses(live, ids) != {"succeeded": 7, "failed": 1}:
        if not worker.alive:
            deaths += 1
            assert deaths <= 4
            worker = start(hazard(), lease_seconds=1)
        time.sleep(0.05)
    job = look(live, bad)
    assert job.error is not None
    assert (job.error["code"], job.attempt) == ("worker_lost", 3)
    assert deaths in (3, 4)
    assert {look(live, job_id).attempt for job_id in good} == {0}
    assert all(story(live, job_id)[::2] == (20, 1) for job_id in good)
    assert story(live, bad)[2] == 1


def test_a_worker_whose_engine_cannot_cancel_ends_all_the_same(
    live: Store, start: Start, eventually: Eventually
) -> None:
    worker = start(hazard("Stubborn", source="noop:200@0.05"), drain_seconds=0)
    ids = [enqueue(live) for _ in range(2)]
    eventually(lambda: all(look(live, job_id).generated > 2 for job_id in ids), 30)
    worker.send(signal.SIGTERM)
    assert worker.wait(15) == 0
    assert statuses(live, ids) == {"queued": 2}
    assert names(live) == []


def test_an_engine_that_hangs_loses_its_jobs_though_its_worker_lives(
    live: Store, start: Start, eventually: Eventually
) -> None:
    hung = start(hazard(), drain_seconds=1)
    neighbour = enqueue(live)
    eventually(lambda: look(live, neighbour).generated > 2, 30)
    bad = enqueue(live, prompt="hang")
    eventually(lambda: look(live, bad).status is Status.RUNNING)
    start(hazard(), drain_seconds=1)
    assert hung.wait(20) == os.EX_SOFTWARE
    assert "no step in 2 s" in hung.output()
    eventually(lambda: look(live, neighbour).status is Status.SUCCEEDED, 20)
    assert story(live, neighbour)[::2] == (20, 1)
    assert look(live, bad).attempt >= 1


def test_an_error_that_may_pass_is_tried_again_and_in_the_end_told(
    live: Store, start: Start, eventually: Eventually
) -> None:
    start(hazard(), max_attempts=2)
    bad, good = enqueue(live, prompt="break"), enqueue(live)
    eventually(lambda: look(live, bad).status is Status.FAILED, 30)
    job = look(live, bad)
    assert job.error == {"code": "engine_error", "message": "it broke", "retryable": True}
    assert (job.attempt, job.takes) == (2, 2)
    eventually(lambda: look(live, good).status is Status.SUCCEEDED)


def test_a_job_whose_stream_a_stranger_has_cut_begins_anew(live: Store, start: Start, eventually: Eventually) -> None:
    first = start(drain_seconds=0)
    job_id = enqueue(live, parameters=LONG)
    eventually(lambda: look(live, job_id).generated > 2, 30)
    first.send(signal.SIGTERM)
    assert first.wait(10) == 0
    live.client.xtrim(keys.events(job_id), maxlen=2, approximate=False)
    start()
    eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 30)
    assert (look(live, job_id).takes, look(live, job_id).generated) == (2, TOKENS)


def test_a_timeout_counts_the_running_time_of_all_attempts(live: Store, start: Start, eventually: Eventually) -> None:
    catalog = noop(source="noop:1000@0.05")
    first = start(catalog, drain_seconds=0)
    job_id = enqueue(live, parameters={"max_new_tokens": 1000}, timeout_seconds=2)
    eventually(lambda: look(live, job_id).generated > 10, 20)
    first.send(signal.SIGTERM)
    assert first.wait(10) == 0
    ran = look(live, job_id).ran_seconds
    assert 0.5 < ran < 2
    start(catalog)
    eventually(lambda: look(live, job_id).status is Status.FAILED, 20)
    job = look(live, job_id)
    assert job.error == {"code": "timeout", "message": "it ran longer than its timeout_seconds, 2", "retryable": False}
    assert 2 <= job.ran_seconds < 3
    assert job.takes == 2
    assert job.output is not None
    assert job.output["finish_reason"] == "timeout"
    assert job.output["usage"] == {"prompt_tokens": 5, "completion_tokens": job.generated}
    assert story(live, job_id) == (job.generated, job.output["text"], 1)


def test_readers_are_told_when_an_engine_cannot_resume(live: Store, start: Start, eventually: Eventually) -> None:
    catalog = hazard("Forgetful", source="noop:20@0.1")
    first = start(catalog, drain_seconds=0)
    job_id = enqueue(live)
    eventually(lambda: look(live, job_id).generated > 2, 30)
    first.send(signal.SIGTERM)
    assert first.wait(10) == 0
    start(catalog)
    eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 30)
    events = live.run(verb.read_events({job_id: "0"}))[job_id]
    kinds = [event.type for event in events]
    assert kinds.count("restarted") == 1
    text = ""
    indexes: list[int] = []
    for event in events[kinds.index("restarted") :]:
        if event.type == "token":
            assert event.data["index"] == len(indexes)
            indexes += event.data["ids"]
            text += event.data["text"]
    output = look(live, job_id).output
    assert output is not None
    assert (text, len(indexes)) == (output["text"], 20)
    assert sum(map(is_terminal, kinds)) == 1
