"""The SDK and the command line on webhooks, against a server that answers what the test says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from nowserving.cli import app
from nowserving.client import ApiError, Client
from tests.scripted_api import Script, perform, reply

JOB = "job_01k0000000000000000000000a"
QUEUED = {"id": JOB, "model": "noop", "status": "queued"}

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


@pytest.fixture
def script() -> Iterator[Script]:
    with perform() as script:
        yield script


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.url, timeout_seconds=5) as client:
        yield client


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
