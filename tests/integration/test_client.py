"""The SDK against a server that misbehaves on purpose, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nowserving.client import ApiError, ApiUnreachableError, Client, WaitTimeoutError
from nowserving.errors import SettingsError
from tests.scripted_api import Script, events, hang_up, perform, reply

JOB = "job_01k0000000000000000000000a"
QUEUED = {"id": JOB, "model": "noop", "status": "queued"}
DONE = {**QUEUED, "status": "succeeded", "output": {"text": "ab"}}


@pytest.fixture
def script() -> Iterator[Script]:
    with perform() as script:
        yield script


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.url, timeout_seconds=5) as client:
        yield client


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are noted and not slept."""
    noted: list[float] = []
    monkeypatch.setattr("nowserving.client.retry.time.sleep", noted.append)
    return noted


def test_submit_sends_what_was_given_and_nothing_else(client: Client, script: Script) -> None:
    script.answers = [reply(202, QUEUED)]
    job = client.submit(
        "noop", messages=[{"role": "user", "content": "hi"}], max_new_tokens=5, temperature=0, seed=None
    )
    assert (job.id, job.status) == (JOB, "queued")
    assert script.seen[0].body == {
        "model": "noop",
        "input": {"messages": [{"role": "user", "content": "hi"}]},
        "parameters": {"max_new_tokens": 5, "temperature": 0},
    }


def test_every_parameter_is_sent_as_it_was_given(client: Client, script: Script) -> None:
    parameters = {"min_p": 0.1, "repetition_penalty": 1.2, "stop_token_ids": [2, 7], "ignore_eos": True, "stop": ["x"]}
    script.answers = [reply(202, QUEUED)]
    client.submit("noop", "hi", **parameters)  # type: ignore[arg-type]
    assert script.seen[0].body["parameters"] == parameters


def test_a_repeated_submit_is_the_same_job(client: Client, script: Script, pauses: list[float]) -> None:
    unavailable = reply(503, {"code": "redis_unavailable"}, Retry_After="2")
    script.answers = [hang_up, unavailable, hang_up, reply(202, QUEUED)]
    assert client.submit("noop", "hi").id == JOB
    keys = {seen.headers["Idempotency-Key"] for seen in script.seen}
    assert len(script.seen) == 4
    assert len(keys) == 1
    assert pauses[1] >= 2


def test_two_submits_are_two_jobs(client: Client, script: Script) -> None:
    script.answers = [reply(202, QUEUED), reply(202, QUEUED)]
    client.submit("noop", "hi")
    client.submit("noop", "hi")
    assert len({seen.headers["Idempotency-Key"] for seen in script.seen}) == 2


def test_a_refusal_is_not_repeated(client: Client, script: Script) -> None:
    problem = {"code": "unknown_model", "detail": "there is no model 'x'", "status": 404}
    script.answers = [reply(404, problem)]
    with pytest.raises(ApiError) as caught:
        client.submit("x", "hi")
    error = caught.value
    assert (error.status, error.code, error.detail) == (404, "unknown_model", "there is no model 'x'")
    assert error.retry_after_seconds is None
    assert len(script.seen) == 1


def test_a_wait_longer_than_the_budget_is_not_begun(client: Client, script: Script, pauses: list[float]) -> None:
    script.answers = [reply(429, {"code": "queue_full", "detail": "full"}, Retry_After="3600")]
    with pytest.raises(ApiError) as caught:
        client.submit("noop", "hi")
    assert caught.value.retry_after_seconds == 3600
    assert pauses == []


def test_a_proxys_answer_is_an_error_too(client: Client, script: Script) -> None:
    script.answers = [reply(400, "not an object")]
    with pytest.raises(ApiError, match="HTTP 400") as caught:
        client.get(JOB)
    assert caught.value.code == "http_error"


def test_another_service_is_recognised(client: Client, script: Script) -> None:
    script.answers = [reply(200, "hello")]
    with pytest.raises(ApiUnreachableError, match="not as a nowserving API"):
        client.get(JOB)


def test_nobody_there_is_said_with_the_address() -> None:
    with Client("http://127.0.0.1:1", retry_seconds=0) as client, pytest.raises(ApiUnreachableError, match=r"0\.1:1"):
        client.queues()


def test_a_wrong_address_is_said() -> None:
    with pytest.raises(SettingsError, match="no address"):
        Client("127.0.0.1:8000")


def test_wait_asks_until_the_job_has_ended(client: Client, script: Script, pauses: list[float]) -> None:
    script.answers = [reply(200, QUEUED), hang_up, reply(200, DONE)]
    job = client.wait(JOB, timeout_seconds=20)
    assert job.text == "ab"
    assert "wait=20" in script.seen[0].path


def test_wait_gives_up_in_time(client: Client, script: Script) -> None:
    script.answers = [reply(200, QUEUED)]
    with pytest.raises(WaitTimeoutError, match="queued after 0 s"):
        client.wait(JOB, timeout_seconds=0)


def test_a_broken_stream_goes_on_where_it_broke(client: Client, script: Script, pauses: list[float]) -> None:
    script.answers = [
        events(("1-0", "started", {}), ("2-0", "token", {"ids": [1], "text": "a"})),
        hang_up,
        reply(503, {"code": "redis_unavailable"}),
        events(("3-0", "token", {"ids": [2], "text": "b"}), ("4-0", "succeeded", {"output": {"text": "ab"}})),
    ]
    seen = list(client.stream(JOB))
    assert [event.id for event in seen] == ["1-0", "2-0", "3-0", "4-0"]
    assert "".join(event.text for event in seen) == "ab"
    assert [asked.headers.get("Last-Event-ID") for asked in script.seen] == [None, "2-0", "2-0", "2-0"]


def test_a_stream_of_an_unknown_job_is_refused(client: Client, script: Script) -> None:
    script.answers = [reply(404, {"code": "job_not_found", "detail": "there is no job"})]
    with pytest.raises(ApiError, match="there is no job"):
        list(client.stream(JOB))


def test_ids_cannot_leave_their_place_in_the_path(client: Client, script: Script) -> None:
    script.answers = [reply(404, {"code": "job_not_found"})]
    with pytest.raises(ApiError):
        client.get("../queues")
    assert script.seen[0].path == "/v1/jobs/..%2Fqueues"


def test_lists_come_page_by_page(client: Client, script: Script) -> None:
    script.answers = [reply(200, {"data": [DONE], "next_cursor": 17}), reply(200, {"data": [], "next_cursor": None})]
    page = client.jobs(status="succeeded", limit=1)
    assert (page.jobs[0].id, page.next_cursor) == (JOB, "17")
    assert client.jobs(cursor=page.next_cursor).next_cursor is None
    assert "cursor=17" in script.seen[1].path
