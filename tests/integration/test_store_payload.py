"""What the scripts keep for a webhook is all that its body needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nowserving import verb
from nowserving.describe import describe_job
from nowserving.job import Status
from nowserving.payload import LIMIT_BYTES, compose
from nowserving.secret import new_secret
from nowserving.store import Store
from tests.board import at, look, take
from tests.letterbox import end, enqueue, pick, receiver

SECRET = new_secret()


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    at(store, 0)


def told(store: Store) -> dict[str, Any]:
    """The body of the next delivery."""
    (taken,) = pick(store, "d")
    body = compose(taken.fields, "https://jobs.example")
    assert SECRET.encode() not in body
    assert len(body) < LIMIT_BYTES
    return dict(json.loads(body))


def shown(store: Store, job_id: str) -> dict[str, Any]:
    """The job as GET shows it, by whole links."""
    job = describe_job(look(store, job_id))
    return {**job, "urls": {name: f"https://jobs.example{path}" for name, path in job["urls"].items()}}


def test_an_ended_job_is_told_as_it_is_shown(store: Store) -> None:
    job_id = enqueue(store, receiver(secret=SECRET))
    at(store, 1.5)
    end(store, job_id)
    event = told(store)
    assert event["type"] == "job.succeeded"
    assert event["data"] == shown(store, job_id)
    assert event["timestamp"] == event["data"]["finished_at"]


def test_a_started_job_is_told_as_it_was(store: Store) -> None:
    job_id = enqueue(store, receiver(events=["job.started"]))
    take(store, "a")
    store.run(verb.begin(job_id, "a", 3))
    before = shown(store, job_id)
    store.run(verb.finish(job_id, "a", Status.SUCCEEDED, {"text": "x"}))
    event = told(store)
    assert event["data"] == before
    assert (event["type"], before["status"], before["output"]) == ("job.started", "running", None)


def test_a_text_that_is_not_kept_twice_is_linked_to(store: Store) -> None:
    job_id = enqueue(store, receiver())
    take(store, "a")
    store.run(verb.finish(job_id, "a", Status.SUCCEEDED, {"text": "x" * 12_001, "finish_reason": "stop"}))
    data = told(store)["data"]
    assert data["omitted"] == ["output.text"]
    assert data["output"]["text"] is None
    assert data["urls"]["self"] == f"https://jobs.example/v1/jobs/{job_id}"
