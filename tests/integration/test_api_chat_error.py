"""What goes wrong with a chat is an error that OpenAI's own client knows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import openai
import pytest

from nowserving.job import Status
from tests.api_server import MODEL, ApiServer
from tests.chats import HELLO, ask, begin, client_of, count, queued, read, waiters
from tests.fake_worker import FakeWorker
from tests.sse import Reader

Eventually = Callable[..., None]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "refused", "code", "param"),
    [
        ({"n": 2}, openai.BadRequestError, "invalid_input", "n"),
        ({"max_tokens": 513}, openai.BadRequestError, "invalid_input", "max_tokens"),
        ({"max_completion_tokens": 513}, openai.BadRequestError, "invalid_input", "max_completion_tokens"),
        ({"model": "none"}, openai.NotFoundError, "model_not_found", "model"),
        ({"extra_headers": {"Idempotency-Key": ""}}, openai.BadRequestError, "invalid_header", None),
        ({"extra_headers": {"Content-Type": "text/plain"}}, openai.APIStatusError, "unsupported_media_type", None),
    ],
)
def test_a_refusal_is_an_error_of_openais_own(
    chats: openai.OpenAI,
    worker: FakeWorker,
    fields: dict[str, Any],
    refused: type[openai.APIStatusError],
    code: str,
    param: str | None,
    stream: bool,
) -> None:
    with pytest.raises(refused) as error:
        chats.chat.completions.create(**{"model": MODEL, "messages": HELLO, "stream": stream, **fields})
    assert (error.value.code, error.value.param) == (code, param)
    assert count(worker) == 0


def test_a_full_queue_says_when_to_come_back(
    start_api: Callable[..., ApiServer], redis_url: str, worker: FakeWorker
) -> None:
    api = start_api(redis_url, max_depth=1)
    api.submit_id()
    with client_of(api) as chats, pytest.raises(openai.RateLimitError) as error:
        ask(chats)
    assert (error.value.code, int(error.value.response.headers["retry-after"]) >= 1) == ("queue_full", True)
    assert count(worker) == 1


def test_where_no_more_may_wait_nothing_is_queued(
    start_api: Callable[..., ApiServer], redis_url: str, worker: FakeWorker, eventually: Eventually
) -> None:
    api = start_api(redis_url, max_waiters=1)
    with client_of(api) as chats, Reader(api, api.submit_id()) as reader:
        eventually(lambda: waiters(api) == 1)
        for call in (ask, read):
            with pytest.raises(openai.InternalServerError) as error:
                call(chats)
            assert (error.value.code, error.value.status_code) == ("too_many_waiters", 503)
        assert api.app.state.front.canceler.waiting == 0, "none of them was queued"
        assert count(worker) == 1
        worker.finish(worker.begin())
        reader.join()


@pytest.mark.parametrize("retries", [0, 2])
def test_a_failed_job_is_an_error_and_is_sent_again_if_that_may_help(
    api: ApiServer, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually, retries: int
) -> None:
    with client_of(api, max_retries=retries) as chats:
        asked = aside(ask, chats)
        for _ in range(1 + retries):
            worker.finish(begin(worker, eventually), "broken", Status.FAILED)
        with pytest.raises(openai.InternalServerError) as error:
            asked.result(15)
    assert (error.value.code, error.value.response.headers["x-should-retry"]) == ("engine_error", "true")
    assert "broken" in error.value.message
    assert count(worker) == 1 + retries


def test_a_job_that_would_fail_again_is_not_sent_again(
    api: ApiServer, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    with client_of(api, max_retries=2) as chats:
        asked = aside(ask, chats)
        worker.finish(begin(worker, eventually), "for good", Status.FAILED, retryable=False)
        with pytest.raises(openai.InternalServerError) as error:
            asked.result(15)
    assert error.value.response.headers["x-should-retry"] == "false"
    assert count(worker) == 1


def test_a_fault_of_ours_is_an_error_of_openais_too(
    api: ApiServer, chats: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("api.chat.parse_chat", fail)
    with pytest.raises(openai.InternalServerError) as error:
        ask(chats)
    assert error.value.code == "internal_error"
    assert "ZeroDivisionError" in caplog.text


def test_a_failed_jobs_stream_ends_with_the_error(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    asked = aside(read, chats)
    job_id = begin(worker, eventually)
    worker.tokens(job_id, 0, "a")
    worker.finish(job_id, "broken", Status.FAILED)
    with pytest.raises(openai.APIError, match="broken") as error:
        asked.result(15)
    assert error.value.code == "engine_error"


def test_a_stream_that_is_refused_before_it_begins_has_a_status(
    chats: openai.OpenAI,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.chat.HOLD_SECONDS", 15)
    asked = aside(read, chats)
    eventually(lambda: queued(worker))
    taken = worker.take()
    assert taken
    worker.finish(taken, "broken", Status.FAILED)
    with pytest.raises(openai.InternalServerError) as error:
        asked.result(15)
    assert (error.value.status_code, error.value.code) == (500, "engine_error")


@pytest.mark.parametrize("call", [ask, read])
def test_a_failure_under_a_key_is_not_asked_for_again(
    api: ApiServer,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    call: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.chat.HOLD_SECONDS", 15)
    with client_of(api, max_retries=2) as chats:
        asked = aside(call, chats, extra_headers={"Idempotency-Key": "k"})
        eventually(lambda: queued(worker))
        taken = worker.take()
        assert taken
        worker.finish(taken, "broken", Status.FAILED)
        with pytest.raises(openai.InternalServerError) as error:
            asked.result(15)
    assert error.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("call", "held_seconds"), [(ask, 0), (read, 15), (read, 0)])
def test_a_canceled_job_is_not_sent_again(
    api: ApiServer,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., Any],
    held_seconds: float,
) -> None:
    monkeypatch.setattr("api.chat.HOLD_SECONDS", held_seconds)
    with client_of(api, max_retries=2) as chats:
        asked = aside(call, chats)
        eventually(lambda: queued(worker))
        job_id = queued(worker)[0].id
        api.http.post(f"/v1/jobs/{job_id}/cancel")
        with pytest.raises(openai.APIError) as error:
            asked.result(15)
    assert error.value.code == "canceled"
    assert count(worker) == 1


@pytest.mark.parametrize("call", [ask, read])
def test_what_starts_too_late_is_not_made(chats: openai.OpenAI, worker: FakeWorker, call: Callable[..., Any]) -> None:
    with pytest.raises(openai.APIError) as error:
        call(chats, extra_body={"start_within_seconds": 0.2})
    assert error.value.code == "expired"
    assert worker.take() is None
