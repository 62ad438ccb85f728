"""A chat's client, server or Redis goes away before the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import openai
import pytest

from nowserving.job import Status
from tests.api_process import ApiProcess
from tests.api_server import MODEL, ApiServer
from tests.chats import HELLO, Leaver, answers, ask, begin, client_of, count, queued, read, status, text_of, waiters
from tests.fake_worker import FakeWorker
from tests.redis_server import RedisServer
from tests.worker_process import noop

Eventually = Callable[..., None]


def test_a_job_that_takes_longer_than_all_its_times_is_canceled(
    chats: openai.OpenAI,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.chat.SPARE_SECONDS", 0.1)
    asked = aside(ask, chats, extra_body={"start_within_seconds": 3, "timeout_seconds": 0.1})
    job_id = begin(worker, eventually)
    with pytest.raises(openai.InternalServerError) as error:
        asked.result(15)
    assert (error.value.status_code, error.value.code) == (504, "timeout")
    assert error.value.response.headers["location"] == f"/v1/jobs/{job_id}"
    eventually(lambda: status(worker, job_id) is Status.CANCELED)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_a_client_that_leaves_cancels_its_job(
    api: ApiServer, worker: FakeWorker, eventually: Eventually, stream: bool, started: bool
) -> None:
    left = Leaver(api, stream)
    eventually(lambda: waiters(api) == 1 and count(worker) == 1)
    (job,) = queued(worker)
    if started:
        worker.begin()
        worker.tokens(job.id, 0, "a")
    left.leave()
    eventually(lambda: status(worker, job.id) is Status.CANCELED)
    eventually(lambda: waiters(api) == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_redis_is_away_cancels_its_job_when_it_is_back(
    start_api: Callable[..., ApiServer], own_redis: RedisServer, eventually: Eventually, stream: bool
) -> None:
    api, worker = start_api(own_redis.url), FakeWorker(own_redis.url)
    left = Leaver(api, stream)
    eventually(lambda: waiters(api) == 1 and count(worker) == 1)
    (job,) = queued(worker)
    own_redis.stop()
    left.leave()
    eventually(lambda: waiters(api) == 0)
    own_redis.start()
    eventually(lambda: answers(worker) and status(worker, job.id) is Status.CANCELED)
    worker.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_with_a_key_comes_back_to_the_same_job(
    api: ApiServer,
    chats: openai.OpenAI,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    stream: bool,
) -> None:
    key = {"Idempotency-Key": "k"}
    left = Leaver(api, stream, key["Idempotency-Key"])
    job_id = begin(worker, eventually)
    worker.tokens(job_id, 0, "a")
    eventually(lambda: waiters(api) == 1)
    left.leave()
    eventually(lambda: waiters(api) == 0)
    asked = aside(read, chats, extra_headers=key)
    eventually(lambda: waiters(api) == 1)
    worker.tokens(job_id, 1, "b")
    worker.finish(job_id, "ab")
    assert text_of(asked.result(15)) == "ab"
    worker.collapse()
    again = chats.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, extra_headers=key)
    assert again.parse().choices[0].message.content == "ab"
    assert (again.headers["idempotency-replayed"], again.headers["location"]) == ("true", f"/v1/jobs/{job_id}")
    with pytest.raises(openai.BadRequestError) as error:
        ask(chats, extra_headers=key, max_tokens=1)
    assert error.value.code == "idempotency_key_reused"
    assert text_of(read(chats, extra_headers=key)) == "ab"
    assert count(worker) == 1


@pytest.fixture
def process(redis_url: str, tmp_path: Path) -> Iterator[ApiProcess]:
    """An API that may be stopped."""
    with ApiProcess(redis_url, tmp_path, noop()) as process:
        process.wait_for_log("startup complete", 20)
        yield process


@pytest.mark.parametrize("call", [ask, read])
def test_a_server_that_stops_lets_a_chat_end(
    process: ApiProcess,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    call: Callable[..., Any],
) -> None:
    with client_of(process) as chats:
        asked = aside(call, chats)
        job_id = begin(worker, eventually)
        worker.tokens(job_id, 0, "a")
        process.send(signal.SIGTERM)
        process.wait_for_log("Waiting for connections to close", 5)
        worker.tokens(job_id, 1, "b")
        worker.finish(job_id, "ab")
        answer = asked.result(15)
    assert (text_of(answer) if call is read else answer.choices[0].message.content) == "ab"
    process.wait(15)


@pytest.mark.parametrize("call", [ask, read])
def test_a_server_that_can_wait_no_longer_cancels_the_job(
    process: ApiProcess,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    call: Callable[..., Any],
) -> None:
    with client_of(process) as chats:
        asked = aside(call, chats)
        job_id = begin(worker, eventually)
        process.send(signal.SIGTERM)
        with pytest.raises(openai.APIError) as error:
            asked.result(15)
    process.wait(15)
    assert status(worker, job_id) is Status.CANCELED
    if call is ask:
        assert isinstance(error.value, openai.InternalServerError)
        assert (error.value.status_code, error.value.code) == (503, "stopping")
        assert error.value.response.headers["retry-after"]


def test_a_stream_that_waits_is_kept_open_through_redis_absence(
    start_api: Callable[..., ApiServer],
    own_redis: RedisServer,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.chat.PING_SECONDS", 0.05)
    monkeypatch.setattr("api.chat.IDLE_SECONDS", 0.1)
    api, worker = start_api(own_redis.url), FakeWorker(own_redis.url)
    with client_of(api, timeout=2) as impatient:  # between two bytes
        asked = aside(read, impatient)
        job_id = begin(worker, eventually)
        own_redis.stop()
        gone_at = time.monotonic()
        eventually(lambda: time.monotonic() > gone_at + 3)
        assert not asked.done()
        own_redis.start()
        eventually(lambda: answers(worker))
        worker.finish(job_id, "")
        assert asked.result(15)
    worker.close()
