"""Chat completions as OpenAI's own client sees them."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
import redis
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from api.front import Front
from nowserving import keys, verb
from nowserving.job import Job, Status
from tests.api_process import ApiProcess
from tests.api_server import MODEL, ApiServer
from tests.contract import check
from tests.fake_worker import FakeWorker
from tests.redis_server import RedisServer
from tests.sse import Reader
from tests.worker_process import noop

Eventually = Callable[..., None]
HELLO: Any = [{"role": "user", "content": "hello"}]


def client_of(api: ApiServer | ApiProcess, **options: Any) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False, event_hooks={"response": [check]})
    return openai.OpenAI(
        base_url=f"{api.url}/v1", api_key="-", http_client=http, **{"max_retries": 0, "timeout": 15, **options}
    )


@pytest.fixture
def chats(api: ApiServer) -> Iterator[openai.OpenAI]:
    with client_of(api) as client:
        yield client


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Calls something in a thread of its own."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def ask(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, **fields)
    assert isinstance(answer, ChatCompletion)
    return answer


def read(client: openai.OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **fields))


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def begin(worker: FakeWorker, eventually: Eventually) -> str:
    """Take the job that is about to come."""
    eventually(lambda: queued(worker))
    return worker.begin()


def queued(worker: FakeWorker) -> list[Job]:
    return worker.store.run(verb.list_jobs(before=None, limit=9, status="queued", model=MODEL))[0]


def status(worker: FakeWorker, job_id: str) -> Status:
    return worker.store.run(verb.look(job_id)).job.status


def count(worker: FakeWorker) -> int:
    return len(worker.store.run(verb.list_jobs(before=None, limit=9, status="", model=MODEL))[0])


def answers(worker: FakeWorker) -> bool:
    """Whether Redis does."""
    with suppress(redis.RedisError):
        return bool(worker.store.client.ping())
    return False


def waiters(api: ApiServer) -> int:
    front: Front = api.app.state.front
    return front.hub.waiters


def test_a_chat_is_a_job_whose_text_is_the_answer(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    asked = aside(ask, chats, max_tokens=9, temperature=0, metadata={"a": "b"})
    job_id = begin(worker, eventually)
    job = worker.store.run(verb.look(job_id)).job
    assert job.input.messages
    assert (job.input.messages[0].content, job.parameters.max_new_tokens, job.metadata) == ("hello", 9, {"a": "b"})
    worker.tokens(job_id, 0, "a", "b")
    worker.finish(job_id, "ab")
    answer = asked.result(15)
    assert (answer.id, answer.model) == (job_id.replace("job_", "chatcmpl-"), MODEL)
    assert answer._request_id == job_id, "what a person needs to find the job"
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "ab", "stop")
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 1, 4)
    assert answer.created == int(job.created_at)


def test_a_stream_brings_the_text_as_it_is_made(
    api: ApiServer, chats: openai.OpenAI, worker: FakeWorker, eventually: Eventually
) -> None:
    stream = chats.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    assert stream.response.headers["x-request-id"] == begin(worker, eventually)
    job_id = stream.response.headers["x-request-id"]
    chunks = [next(stream)]
    assert chunks[0].choices[0].delta.role == "assistant"
    for i, text in enumerate("ab"):
        worker.tokens(job_id, i, text)
        chunks.append(next(stream))
        assert text_of(chunks[-1:]) == text, "before the next is made"
    worker.finish(job_id, "ab")
    chunks += list(stream)
    assert text_of(chunks) == "ab"
    assert {chunk.id for chunk in chunks} == {job_id.replace("job_", "chatcmpl-")}
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [None, None, None, "stop"]
    assert [chunk.usage is None for chunk in chunks] == [True, True, True, True, False]
    assert chunks[-1].usage
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 4)
    eventually(lambda: waiters(api) == 0)


def test_a_stream_without_usage_ends_with_its_reason(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    asked = aside(read, chats)
    worker.finish(begin(worker, eventually), "")
    chunks = asked.result(15)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


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


def test_a_job_that_takes_longer_than_all_its_times_is_canceled(
    chats: openai.OpenAI,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.chat.SPARE_SECONDS", 0.1)
    asked = aside(ask, chats, extra_body={"start_within_seconds": 1, "timeout_seconds": 0.1})
    job_id = begin(worker, eventually)
    with pytest.raises(openai.InternalServerError) as error:
        asked.result(15)
    assert (error.value.status_code, error.value.code) == (504, "timeout")
    assert error.value.response.headers["location"] == f"/v1/jobs/{job_id}"
    assert status(worker, job_id) is Status.CANCELED


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
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
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
) -> None:
    with client_of(api, max_retries=2) as chats:
        asked = aside(call, chats, extra_headers={"Idempotency-Key": "k"})
        eventually(lambda: queued(worker))
        taken = worker.take()
        assert taken
        worker.finish(taken, "broken", Status.FAILED)
        with pytest.raises(openai.InternalServerError) as error:
            asked.result(15)
    assert error.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("call", [ask, read])
def test_a_canceled_job_is_not_sent_again(
    api: ApiServer,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    call: Callable[..., Any],
) -> None:
    with client_of(api, max_retries=2) as chats:
        asked = aside(call, chats)
        job_id = begin(worker, eventually)
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
    assert ask(chats, extra_headers=key).choices[0].message.content == "ab"
    assert text_of(read(chats, extra_headers=key)) == "ab"
    assert count(worker) == 1


def test_a_job_that_goes_on_at_another_worker_is_one_text(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    asked = aside(read, chats)
    job_id = begin(worker, eventually)
    worker.tokens(job_id, 0, "a")
    worker.release(job_id)
    assert worker.begin() == job_id
    worker.tokens(job_id, 1, "b")
    worker.finish(job_id, "ab")
    assert text_of(asked.result(15)) == "ab"


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_that_begins_anew_is_no_answer_once_it_was_seen(
    chats: openai.OpenAI,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    text: str,
) -> None:
    asked = aside(read, chats)
    job_id = begin(worker, eventually)
    worker.tokens(job_id, 0, text)
    worker.release(job_id)
    assert worker.begin(anew=True) == job_id
    worker.tokens(job_id, 0, "b")
    if text:
        with pytest.raises(openai.APIError) as error:
            asked.result(15)
        assert error.value.code == "restarted"
        eventually(lambda: status(worker, job_id) is Status.CANCELED)  # it asks once more, or not at all
    else:
        worker.finish(job_id, "b")
        assert text_of(asked.result(15)) == "b"


def test_a_text_that_began_anew_before_anybody_read_it_is_whole(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    key = {"Idempotency-Key": "k"}
    asked = aside(ask, chats, extra_headers=key)
    job_id = begin(worker, eventually)
    worker.tokens(job_id, 0, "a")
    worker.release(job_id)
    assert worker.begin(anew=True) == job_id
    worker.tokens(job_id, 0, "b")
    late = aside(read, chats, extra_headers=key)
    eventually(lambda: worker.store.client.pubsub_numsub(keys.events(job_id))[0][1] == 1)
    worker.tokens(job_id, 1, "c")
    worker.finish(job_id, "bc")
    assert asked.result(15).choices[0].message.content == "bc"
    assert text_of(late.result(15)) == "bc"
    assert text_of(read(chats, extra_headers=key)) == "bc"


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


def test_a_model_is_found_by_its_name(chats: openai.OpenAI) -> None:
    assert chats.models.retrieve(MODEL).id == MODEL
    assert [model.id for model in chats.models.list()] == [MODEL]
    with pytest.raises(openai.NotFoundError) as error:
        chats.models.retrieve("none")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    assert "there are: noop" in error.value.message


class Leaver:
    """A client that asks, and leaves without an answer."""

    def __init__(self, api: ApiServer, stream: bool, key: str = "") -> None:
        body = json.dumps({"model": MODEL, "messages": HELLO, "stream": stream})
        headers = ["Host: api", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        if key:
            headers.append(f"Idempotency-Key: {key}")
        self._socket = socket.create_connection(("127.0.0.1", api.port))
        self._socket.sendall("\r\n".join(["POST /v1/chat/completions HTTP/1.1", *headers, "", body]).encode())

    def leave(self) -> None:
        """Close the connection."""
        self._socket.close()
