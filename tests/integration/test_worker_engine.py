"""How a worker's engine starts, and what becomes of its jobs when it dies: real Celery workers on a real Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nowserving.job import Status
from nowserving.store import Store, connect
from tests.invariant import story
from tests.redis_server import RedisServer
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, ready, statuses, workers

Eventually = Callable[..., None]
Start = Callable[..., WorkerProcess]

TOKENS = 60
LONG = {"max_new_tokens": TOKENS, "temperature": 1, "seed": 7}


@pytest.fixture
def start(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    def begin(catalog: str, **settings: object) -> WorkerProcess:
        # The lease is so long that whatever goes back in this time was handed back.
        process = WorkerProcess(redis_url, tmp_path, catalog, **{"lease_seconds": 60, **settings})
        request.addfinalizer(lambda: process.__exit__(None, None, None))
        return process.start()

    return begin


def catalog(engine: str, source: object = "", slots: int = 8) -> str:
    return f'[models.{MODEL}]\nengine = "{engine}"\nslots = {slots}\nsource = "{source}"\n'


def test_a_worker_shows_how_far_it_has_loaded_and_takes_nothing_before(
    live: Store, start: Start, eventually: Eventually, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("10\n43\n")
    worker = start(catalog("tests.engines:Starting", script))
    job_id = enqueue(live)
    eventually(lambda: [worker["detail"] for worker in workers(live)] == ["loading 43%"], 30)
    shown: dict[str, Any] = workers(live)[0]
    assert (shown["state"], shown["gate"]) == ("loading", {"open": False, "reason": "engine"})
    assert list(shown["start_seconds"]) == ["import"]
    assert look(live, job_id).status is Status.QUEUED
    with script.open("a") as file:
        file.write("87\n")
    eventually(lambda: workers(live)[0]["detail"] == "loading 87%", 10)
    with script.open("a") as file:
        file.write("ready\n")
    eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 10)
    eventually(lambda: workers(live)[0]["state"] == "ready")
    shown = dict[str, Any](workers(live)[0])
    assert (shown["detail"], shown["gate"]["open"]) == ("", True)
    assert list(shown["start_seconds"]) == ["import", "load"]
    assert " is ready: 8 slots, 1024 MB for jobs; import " in worker.output()


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        ("broken", os.EX_CONFIG, "the model is broken"),
        ("away", os.EX_TEMPFAIL, "the hub is away"),
        ("full", os.EX_TEMPFAIL, "the device is full"),
        ("strange", os.EX_SOFTWARE, "the engine of noop did not start: RuntimeError('what is this')"),
    ],
)
def test_an_engine_that_does_not_start_is_one_sentence_and_a_code_that_says_whether_to_try_again(
    live: Store, start: Start, tmp_path: Path, error: str, code: int, says: str
) -> None:
    (tmp_path / "script").write_text(error)
    worker = start(catalog("tests.engines:Starting", tmp_path / "script"))
    assert worker.wait(30) == code
    assert sum(says in line and "CRITICAL" in line for line in worker.output().splitlines()) == 1
    assert ("Traceback" in worker.output()) == (error == "strange")
    assert workers(live) == []


def test_an_engine_that_cannot_be_made_ends_the_worker_at_once(live: Store, start: Start) -> None:
    worker = start(catalog("tests.engines:Unmakeable"))
    assert worker.wait(30) == os.EX_SOFTWARE
    assert "nowserving: the worker did not start: RuntimeError('noop is not for me')" in worker.output()
    assert "Traceback" in worker.output()
    assert workers(live) == []


@pytest.mark.parametrize("poison", ["begun", "text"])
def test_what_cannot_be_written_of_one_job_fails_that_job_alone(
    live: Store, start: Start, eventually: Eventually, poison: str
) -> None:
    start(catalog("tests.engines:Poisoning", "noop:60@0.05"))
    good = [enqueue(live, parameters={"max_new_tokens": 60}) for _ in range(3)]
    eventually(lambda: all(look(live, job_id).generated > 2 for job_id in good), 30)
    bad = enqueue(live, poison, parameters={"max_new_tokens": 60})
    eventually(lambda: look(live, bad).status is Status.FAILED, 10)
    assert {look(live, job_id).status for job_id in good} == {Status.RUNNING}
    eventually(lambda: statuses(live, good) == {"succeeded": 3}, 20)
    assert {look(live, job_id).takes for job_id in good} == {1}


def test_a_worker_whose_celery_hangs_gives_back_what_it_takes_and_ends(
    live: Store, start: Start, eventually: Eventually
) -> None:
    job_id = enqueue(live)
    hung = start(catalog("tests.engines:Blocking"))
    hung.wait_for_log("Celery runs nothing that it is handed", 30)
    assert hung.wait(10) == os.EX_SOFTWARE
    assert (look(live, job_id).status, look(live, job_id).attempt) == (Status.QUEUED, 0)
    assert look(live, job_id).takes == 0
    start(catalog("noop"))
    eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 30)


def test_a_model_that_is_not_there_is_one_sentence_of_a_real_worker(start: Start, tmp_path: Path) -> None:
    worker = start(catalog("transformers", tmp_path / "nothing"))
    assert worker.wait(60) == os.EX_CONFIG
    assert f"there is no folder '{tmp_path}/nothing', and it is no hub id such as owner/name" in worker.output()
    assert "Traceback" not in worker.output()


def test_a_fatal_device_error_moves_all_jobs_to_another_worker_with_their_texts_unchanged(
    live: Store, start: Start, eventually: Eventually, tmp_path: Path
) -> None:
    trigger = tmp_path / "trigger"
    doomed = start(catalog("tests.device:doomed", trigger))
    eventually(lambda: ready(live), 60)
    calm = [enqueue(live, f"about {index}", parameters=LONG) for index in range(6)]
    eventually(lambda: statuses(live, calm) == {"succeeded": 6}, 60)
    expected = [story(live, job_id)[:2] for job_id in calm]
    assert {tokens for tokens, _ in expected} == {TOKENS}

    ids = [enqueue(live, f"about {index}", parameters=LONG) for index in range(6)]
    eventually(lambda: all(look(live, job_id).generated > 5 for job_id in ids), 30)
    trigger.touch()
    eventually(lambda: statuses(live, ids) == {"queued": 6}, 10)
    made = [look(live, job_id).generated for job_id in ids]
    assert all(5 < count < TOKENS for count in made)
    assert doomed.wait(10) == os.EX_SOFTWARE
    assert "the engine is dead: AcceleratorError: CUDA error: device-side assert triggered" in doomed.output()
    assert workers(live) == []
    start(catalog("tests.device:doomed", trigger))
    eventually(lambda: statuses(live, ids) == {"succeeded": 6}, 90)
    assert [story(live, job_id) for job_id in ids] == [(*told, 1) for told in expected]
    assert [(look(live, job_id).takes, look(live, job_id).attempt) for job_id in ids] == [(2, 0)] * 6


def test_a_dead_engine_is_seen_at_once_also_while_the_taker_waits_for_redis(
    own_redis: RedisServer, eventually: Eventually, tmp_path: Path
) -> None:
    trigger, store = tmp_path / "trigger", Store(connect(own_redis.url))
    with WorkerProcess(own_redis.url, tmp_path, catalog("tests.device:doomed", trigger), lease_seconds=60) as doomed:
        job_id = enqueue(store, parameters={"max_new_tokens": 1000})
        eventually(lambda: look(store, job_id).generated > 5, 60)
        own_redis.suspend()
        trigger.touch()
        doomed.wait_for_log("the engine is dead", 1.5)
        own_redis.resume()
        assert doomed.wait(15) == os.EX_SOFTWARE
        assert look(store, job_id).status is Status.QUEUED
    store.close()


def test_an_engine_whose_thread_dies_without_a_word_loses_its_jobs_at_once(
    live: Store, start: Start, eventually: Eventually
) -> None:
    mortal = catalog("tests.engines:Mortal", "noop:20@0.05")
    dying = start(mortal, max_attempts=1)
    eventually(lambda: ready(live), 30)
    good = [enqueue(live, parameters={"max_new_tokens": 20}) for _ in range(5)]
    eventually(lambda: all(look(live, job_id).generated > 2 for job_id in good), 10)
    bad = enqueue(live, "die")
    eventually(lambda: statuses(live, [*good, bad]) == {"queued": 5, "failed": 1}, 5)
    job = look(live, bad)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert dying.wait(10) == os.EX_SOFTWARE
    start(mortal)
    eventually(lambda: statuses(live, good) == {"succeeded": 5}, 30)
    words = " ".join(f"w{index}" for index in range(20))
    assert [story(live, job_id) for job_id in good] == [(20, words, 1)] * 5
    assert {look(live, job_id).attempt for job_id in good} == {0}


def test_an_idle_worker_whose_engine_has_died_says_so_at_once_and_takes_no_job(
    live: Store, start: Start, eventually: Eventually
) -> None:
    dying = start(catalog("tests.engines:Mortal", "noop:20@0.05"), max_attempts=1)
    eventually(lambda: ready(live), 30)
    bad = enqueue(live, "die")
    eventually(lambda: look(live, bad).status is Status.FAILED, 5)
    died = time.monotonic()
    late = enqueue(live)
    assert dying.wait(10) == os.EX_SOFTWARE
    assert time.monotonic() - died < 5
    assert look(live, late).takes == 0
    assert workers(live) == []
