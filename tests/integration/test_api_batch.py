"""Many jobs in one body: accepted in order, refused line by line, harmless to repeat."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api.batch import LINES_AT_ONCE
from api.body import parse_submission
from nowserving import verb
from nowserving.client import ApiError, Client
from nowserving.errors import StoreUnavailableError
from nowserving.job import Job, Submission
from tests.api_server import MODEL, ApiServer
from tests.fake_worker import FakeWorker


def line(prompt: str = "hello", **body: Any) -> str:
    return json.dumps({"model": MODEL, "input": {"prompt": prompt}, **body})


def send(api: ApiServer, *lines: str, key: str | None = None, **headers: str) -> httpx.Response:
    sent = {"Content-Type": "application/x-ndjson", **headers} | ({"Idempotency-Key": key} if key is not None else {})
    return api.http.post("/v1/jobs/batch", content="\n".join(lines), headers=sent)


def queued(worker: FakeWorker) -> list[Job]:
    """Oldest first."""
    jobs, more = worker.store.run(verb.list_jobs(before=None, limit=1000, status="", model=""))
    assert not more
    return jobs[::-1]


def told(answer: httpx.Response) -> list[tuple[int, int, str | None]]:
    """Of each line its number, its status, and what was wrong."""
    data = answer.json()["data"]
    assert all((entry["id"] is None) == (entry["error"] is not None) for entry in data)
    return [(entry["line"], entry["status"], entry["error"] and entry["error"]["code"]) for entry in data]


def test_all_lines_become_jobs(api: ApiServer, worker: FakeWorker) -> None:
    answer = send(api, *(line(f"{i}", lane="batch") for i in range(200)))
    assert (answer.status_code, answer.json()["accepted"], answer.json()["refused"]) == (202, 200, 0)
    assert told(answer) == [(number, 202, None) for number in range(1, 201)]
    jobs = queued(worker)
    assert [job.id for job in jobs] == [entry["id"] for entry in answer.json()["data"]]
    assert [job.input.prompt for job in jobs] == [str(i) for i in range(200)]
    assert {job.lane for job in jobs} == {"batch"}


def test_a_line_that_is_no_job_is_refused_alone_and_by_its_number(
    start_api: Callable[..., ApiServer], redis_url: str, worker: FakeWorker
) -> None:
    api = start_api(redis_url, max_body_bytes=2000)
    lines = [line("a"), "{", "", line(model="none"), line(modle=1), line("x" * 2000), "[]", "\r", line("b") + "\r", ""]
    answer = send(api, *lines)
    assert answer.status_code == 207
    assert told(answer) == [
        (1, 202, None),
        (2, 400, "invalid_json"),
        (4, 422, "unknown_model"),
        (5, 422, "invalid_input"),
        (6, 413, "payload_too_large"),
        (7, 422, "invalid_input"),
        (9, 202, None),
    ]
    assert answer.json()["data"][3]["error"]["errors"][0]["field"] == "modle"
    assert "retry-after" not in answer.headers
    assert [job.input.prompt for job in queued(worker)] == ["a", "b"]


def test_what_found_no_room_finds_it_when_the_same_is_sent_again(
    start_api: Callable[..., ApiServer], redis_url: str, worker: FakeWorker
) -> None:
    api = start_api(redis_url, max_depth=3)
    lines = [line(f"{i}") for i in range(5)]
    first = send(api, *lines, key="k")
    assert [status for _, status, _ in told(first)] == [202, 202, 202, 429, 429]
    assert (first.status_code, int(first.headers["retry-after"]) >= 1) == (207, True)
    worker.finish(worker.begin())
    worker.begin()
    again = send(api, *lines, key="k")
    assert (again.status_code, [status for _, status, _ in told(again)]) == (202, [200, 202, 202, 202, 202])
    assert [entry["id"] for entry in again.json()["data"]] == [job.id for job in queued(worker)]
    assert [job.input.prompt for job in queued(worker)] == [str(i) for i in range(5)]


def test_a_key_and_a_number_are_for_one_job(api: ApiServer, worker: FakeWorker) -> None:
    assert send(api, line("a"), line("b"), key="k").status_code == 202
    answer = send(api, line("a"), line("c"), line("d"), key="k")
    assert told(answer) == [(1, 202, None), (2, 422, "idempotency_key_reused"), (3, 202, None)]
    assert [job.input.prompt for job in queued(worker)] == ["a", "b", "d"]


def test_no_key_of_a_single_job_is_that_of_a_line(api: ApiServer, worker: FakeWorker) -> None:
    assert send(api, line("a"), key="k").status_code == 202
    for key in ("k", "k/1", "k 1", "k1"):
        assert api.submit("a", {"Idempotency-Key": key}).status_code == 202
    assert len(queued(worker)) == 5


def test_a_line_that_fails_by_a_fault_of_ours_fails_alone_and_is_logged(
    api: ApiServer, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def parse(body: bytes) -> Submission:
        if b"bad" in body:
            raise ZeroDivisionError
        return parse_submission(body)

    monkeypatch.setattr("api.batch.parse_submission", parse)
    answer = send(api, line("a"), line("bad"), line("b"))
    assert told(answer) == [(1, 202, None), (2, 500, "internal_error"), (3, 202, None)]
    assert "ZeroDivisionError" in caplog.text
    assert [job.input.prompt for job in queued(worker)] == ["a", "b"]


def test_a_client_that_hangs_up_amid_its_lines_is_no_fault_of_ours(
    api: ApiServer, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    headers = ["Host: api", "Content-Type: application/x-ndjson", "Content-Length: 900", "", line()]
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall("\r\n".join(["POST /v1/jobs/batch HTTP/1.1", *headers]).encode())
    assert api.submit().status_code == 202
    assert [job.input.prompt for job in queued(worker)] == ["hello"]
    assert not caplog.records


def test_without_a_key_the_same_is_made_again(api: ApiServer, worker: FakeWorker) -> None:
    for _ in range(2):
        assert send(api, line("a"), line("a")).status_code == 202
    assert len(queued(worker)) == 4


@pytest.mark.parametrize(
    ("lines", "headers", "status", "code"),
    [
        ([line()], {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        ([line()], {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        ([line()], {"Idempotency-Key": "k" * 256}, 422, "invalid_header"),
        ([line()], {"Idempotency-Key": ""}, 422, "invalid_header"),
        (["", " "], {}, 422, "invalid_input"),
        ([line("x" * 900)] * 5, {}, 413, "payload_too_large"),
    ],
)
def test_a_body_that_cannot_be_read_as_lines_makes_no_job(
    start_api: Callable[..., ApiServer],
    redis_url: str,
    worker: FakeWorker,
    lines: list[str],
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    answer = send(start_api(redis_url, max_batch_bytes=4096), *lines, **headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert queued(worker) == []


def test_too_many_lines_make_no_job(api: ApiServer, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.batch.MAX_JOBS", 2)
    answer = send(api, *[line()] * 3)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert "may have 2 jobs, not 3" in answer.json()["detail"]
    monkeypatch.setattr("api.batch.MAX_LINES", 3)
    answer = send(api, *[""] * 5, line())
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert queued(worker) == []


def test_while_redis_is_away_it_says_when_to_come_back(
    start_api: Callable[..., ApiServer], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start_api(redis_url)
    send(api, line()).raise_for_status()

    asked = []

    async def refuse(*_: Any) -> Any:
        asked.append(1)
        raise StoreUnavailableError("Redis does not answer")

    monkeypatch.setattr(api.app.state.front.store, "confirm", refuse)
    answer = send(api, *[line()] * (LINES_AT_ONCE - 1), "{", *[line()] * 200)
    assert len(asked) == LINES_AT_ONCE - 1, "each further part would have waited for Redis, too"
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["code"] == "redis_unavailable"


def test_if_no_line_is_accepted_that_is_an_error_which_names_each(
    start_api: Callable[..., ApiServer], redis_url: str, worker: FakeWorker
) -> None:
    api = start_api(redis_url, max_depth=1)
    answer = send(api, "", "{", line(modle=1))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
    assert answer.json()["detail"].startswith("none of 2 lines was accepted; line 2: this is not JSON: ")
    assert [error["field"] for error in answer.json()["errors"]] == ["line 2", "line 3"]
    assert queued(worker) == []
    assert send(api, line("a")).status_code == 202
    mixed = send(api, "{", line("b"))
    assert (mixed.status_code, mixed.json()["code"], "retry-after" in mixed.headers) == (429, "queue_full", True)
    full = send(api, line("b"), line("c"))
    assert (full.status_code, full.json()["code"], int(full.headers["retry-after"]) >= 1) == (429, "queue_full", True)


def test_the_sdk_tells_of_each_line_and_repeats_nothing_twice(
    start_api: Callable[..., ApiServer], redis_url: str, worker: FakeWorker
) -> None:
    jobs = [{"model": MODEL, "input": {"prompt": f"{i}"}} for i in range(3)]
    with Client(start_api(redis_url, max_depth=2).url) as client:
        first = client.submit_batch(jobs, idempotency_key="k")
        worker.begin()
        again = client.submit_batch(iter(jobs), idempotency_key="k")
        with pytest.raises(ApiError, match="none of 1 lines was accepted; line 1: input: ") as error:
            client.submit_batch([{"model": MODEL}])
    assert [(entry.line, entry.status) for entry in first] == [(1, 202), (2, 202), (3, 429)]
    assert first[2].error
    assert (first[2].id, first[2].error["code"]) == (None, "queue_full")
    assert [entry.id for entry in again] == [job.id for job in queued(worker)]
    assert [entry.job_status for entry in again] == ["running", "queued", "queued"]
    assert (error.value.status, error.value.code) == (422, "invalid_input")
