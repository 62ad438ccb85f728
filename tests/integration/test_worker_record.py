"""What a real Celery worker makes of records that it finds changed, or that no client could have written."""

from __future__ import annotations

import signal
from collections.abc import Callable
from json import dumps, loads
from pathlib import Path

import pytest

from nowserving import keys
from nowserving.job import Status
from nowserving.store import Store
from tests.contract import check_schema
from tests.invariant import story
from tests.worker_process import WorkerProcess, enqueue, look, noop, ready, statuses, workers

Eventually = Callable[..., None]
Start = Callable[..., WorkerProcess]

TOKENS = 20
LONG = {"max_new_tokens": TOKENS}
CALM = (TOKENS, " ".join(f"w{index}" for index in range(TOKENS)), 1)


@pytest.fixture
def start(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    def begin(**settings: object) -> WorkerProcess:
        process = WorkerProcess(redis_url, tmp_path, noop(source=f"noop:{TOKENS}@0.1"), lease_seconds=2, **settings)
        request.addfinalizer(lambda: process.__exit__(None, None, None))
        return process.start()

    return begin


def test_what_a_worker_says_of_itself_is_as_documented(live: Store, start: Start, eventually: Eventually) -> None:
    start()
    eventually(lambda: ready(live), 30)
    (said,) = workers(live)
    check_schema(said, {"$ref": "#/components/schemas/Worker"}, "the worker")
    assert {"state", "slots", "running", "gate", "started_at", "version", "engine", "start_seconds", "memory"} <= set(
        said
    )


def test_a_job_whose_time_is_over_before_it_runs_again_keeps_what_was_made(
    live: Store, start: Start, eventually: Eventually
) -> None:
    first = start(drain_seconds=0)
    job_id = enqueue(live, parameters=LONG, timeout_seconds=50)
    eventually(lambda: look(live, job_id).generated > 2, 30)
    first.send(signal.SIGTERM)
    assert first.wait(10) == 0
    live.client.hset(keys.JOB + job_id, "ran_seconds", "50")
    start()
    eventually(lambda: look(live, job_id).status is Status.FAILED, 30)
    job = look(live, job_id)
    assert job.error is not None
    assert job.output is not None
    assert (job.error["code"], job.output["finish_reason"]) == ("timeout", "timeout")
    assert story(live, job_id) == (job.generated, job.output["text"], 1)
    assert job.output["usage"]["completion_tokens"] == job.generated > 2


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": dumps({"stop": [f"stop {number}" for number in range(1000)]})},
        {"parameters": '{"stop_token_ids":[-1]}'},
        {"parameters": '{"min_p":2}', "v": "2"},
        {"input": '{"messages":[{"role":"user","content":"\\ud800"}]}'},
    ],
    ids=["a thousand stops", "a token that is none", "a share above 1", "half a character"],
)
def test_a_job_that_no_client_could_submit_fails_alone_with_its_reason(
    live: Store, start: Start, eventually: Eventually, change: dict[str, str]
) -> None:
    good, bad, late = (enqueue(live, parameters=LONG) for _ in range(3))
    for name, value in change.items():
        live.client.hset(keys.JOB + bad, name, value)
    start()
    eventually(lambda: statuses(live, [good, bad, late]) == {"succeeded": 2, "failed": 1}, 30)
    error = loads(live.client.hget(keys.JOB + bad, "error") or "")
    assert error["code"] == "unreadable_record"
    assert str(error["message"]).startswith(f"the record of {bad} cannot be read")
    assert [story(live, job_id) for job_id in (good, late)] == [CALM] * 2
