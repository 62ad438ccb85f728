"""The SDK against a server that misbehaves on purpose, over a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from nowserving.cli import app
from nowserving.client import ApiError, ApiUnreachableError, Client, WaitTimeoutError
from nowserving.errors import SettingsError

JOB = "job_01k0000000000000000000000a"
QUEUED = {"id": JOB, "model": "noop", "status": "queued"}
DONE = {**QUEUED, "status": "succeeded", "output": {"text": "ab"}}

DELIVERY: dict[str, Any] = {
    "id": "dlv_01k0000000000000000000000a_succeeded",
    "job": JOB,
    "event": "job.succeeded",
    "url": "https://a.example",
    "status": "delivered",
    "attempt_count": 1,
    "attempts": [
        {"at": "2026-01-01T00:00:00.000Z", "status": 204, "latency_seconds": 0.02, "error": None, "answer": ""}
    ],
}


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Script:
    """What the server answers, one after another, and what it was asked."""

    answers: list[Answer] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""


def reply(status: int, body: object, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection with no answer."""
    handler.close_connection = True


def events(*entries: tuple[str, str, object]) -> Answer:
    """Send these events, then close the connection in the middle of the stream."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for event_id, kind, data in entries:
            text = f": ping\n\nid: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()
            handler.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
        handler.wfile.flush()
        handler.close_connection = True

    return answer


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            script.seen.append(Seen(self.command, self.path, dict(self.headers), body))
            script.answers.pop(0)(self)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield script
        server.shutdown()
        thread.join()


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


def test_a_webhook_is_a_url_or_more(client: Client, script: Script) -> None:
    script.answers = [reply(202, QUEUED), reply(202, QUEUED)]
    client.submit("noop", "hi", webhook="https://a.example")
    client.submit("noop", "hi", webhook={"url": "https://a.example", "events": ["job.failed"]})
    assert [seen.body["webhook"] for seen in script.seen] == [
        {"url": "https://a.example"},
        {"url": "https://a.example", "events": ["job.failed"]},
    ]


def test_deliveries_come_page_by_page_and_those_of_a_job_at_once(client: Client, script: Script) -> None:
    dead = {**DELIVERY, "status": "dead"}
    script.answers = [reply(200, {"data": [dead], "next_cursor": "17"}), reply(200, {"data": [dead, DELIVERY]})]
    page = client.deliveries(status="dead", limit=1)
    assert (page.deliveries[0].id, page.deliveries[0].status, page.next_cursor) == (DELIVERY["id"], "dead", "17")
    assert script.seen[0].path == "/v1/deliveries?status=dead&limit=1"
    found = client.deliveries(JOB, status="delivered")
    assert [delivery.attempts[0]["status"] for delivery in found.deliveries] == [204]
    assert found.next_cursor is None
    assert script.seen[1].path == f"/v1/jobs/{JOB}/deliveries"


def test_a_delivery_is_sent_once_more(client: Client, script: Script) -> None:
    script.answers = [reply(202, {**DELIVERY, "status": "pending"}), reply(404, {"code": "delivery_not_found"})]
    assert client.redeliver(DELIVERY["id"]).status == "pending"
    with pytest.raises(ApiError):
        client.redeliver("../jobs")
    assert [f"{seen.method} {seen.path}" for seen in script.seen] == [
        f"POST /v1/deliveries/{DELIVERY['id']}/redeliver",
        "POST /v1/deliveries/..%2Fjobs/redeliver",
    ]


def test_deliveries_are_shown_on_the_command_line(script: Script) -> None:
    runner = CliRunner()
    page, of_job = {"data": [DELIVERY], "next_cursor": "17"}, {"data": [DELIVERY]}
    script.answers = [reply(200, page), reply(200, of_job), reply(200, page), reply(202, DELIVERY)]
    listed = runner.invoke(app, ["deliveries", "--url", script.url])
    assert f"{DELIVERY['id']}  delivered" in listed.stdout
    assert "--cursor 17" in listed.stderr
    told = runner.invoke(app, ["deliveries", "--job", JOB, "--url", script.url]).stdout
    assert f"{DELIVERY['id']} to https://a.example" in told
    assert "2026-01-01T00:00:00.000Z    0.020  HTTP 204" in told
    as_json = runner.invoke(app, ["deliveries", "--json", "--url", script.url]).stdout
    assert json.loads(as_json) == [DELIVERY]
    assert runner.invoke(app, ["redeliver", DELIVERY["id"], "--url", script.url]).stdout == (
        f"{DELIVERY['id']} delivered\n"
    )
