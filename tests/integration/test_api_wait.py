"""Waiting over HTTP: Prefer: wait, and the long poll."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from api.front import Front
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker

StartApi = Callable[..., ApiServer]
Eventually = Callable[..., None]


def waiters(api: ApiServer) -> int:
    front: Front = api.app.state.front
    return front.hub.waiters


def test_prefer_wait_answers_with_the_result(api: ApiServer, worker: FakeWorker, eventually: Eventually) -> None:
    with ThreadPoolExecutor() as pool:
        future = pool.submit(api.submit, headers={"Prefer": "respond-async, wait=9"})
        eventually(lambda: api.http.get("/v1/queues").json()["data"][0]["depth"])
        job_id = worker.begin()
        worker.tokens(job_id, 0, "a")
        assert not future.done()
        worker.finish(job_id, "done")
        answer = future.result(5)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=9")
    assert (answer.json()["status"], answer.json()["output"]["text"]) == ("succeeded", "done")
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    eventually(lambda: waiters(api) == 0)


def test_a_job_that_ends_the_moment_it_is_queued_is_seen_to_end(api: ApiServer, worker: FakeWorker) -> None:
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(api.submit, headers={"Prefer": "wait=20"}) for _ in range(40)]
        until = time.monotonic() + 20
        while not all(future.done() for future in futures) and time.monotonic() < until:
            if job_id := worker.take():
                worker.finish(job_id)
        assert {future.result(0).status_code for future in futures} == {200}
    assert time.monotonic() < until


def test_prefer_wait_answers_202_when_the_time_is_up(api: ApiServer) -> None:
    began = time.monotonic()
    answer = api.submit(headers={"Prefer": "wait=0.2"})
    assert 0.2 <= time.monotonic() - began < 2
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert "preference-applied" not in answer.headers


def test_a_longer_wait_than_allowed_is_cut(start_api: StartApi, redis_url: str, worker: FakeWorker) -> None:
    api = start_api(redis_url, max_wait_seconds=0.2)
    assert api.submit(headers={"Prefer": "wait=3600"}).status_code == 202
    job_id = api.submit_id()
    began = time.monotonic()
    assert api.http.get(f"/v1/jobs/{job_id}?wait=3600").json()["status"] == "queued"
    assert time.monotonic() - began < 2


def test_a_repeated_submission_waits_for_the_first_ones_end(api: ApiServer, worker: FakeWorker) -> None:
    headers = {"Idempotency-Key": "k", "Prefer": "wait=9"}
    job_id = api.submit(headers={"Idempotency-Key": "k"}).json()["id"]
    with ThreadPoolExecutor() as pool:
        future = pool.submit(api.submit, headers=headers)
        time.sleep(0.05)
        worker.finish(worker.begin())
        answer = future.result(5)
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, job_id, "succeeded")
    assert api.submit(headers=headers).status_code == 200


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_the_long_poll_answers_at_the_end(api: ApiServer, worker: FakeWorker, eventually: Eventually, end: str) -> None:
    job_id = api.submit_id()
    with ThreadPoolExecutor() as pool:
        polls = [pool.submit(api.http.get, f"/v1/jobs/{job_id}?wait=9") for _ in range(3)]
        eventually(lambda: waiters(api) == 3)
        taken = worker.begin()
        worker.tokens(taken, 0, "a", "b")
        assert not any(poll.done() for poll in polls)
        ended_at = time.monotonic()
        if end == "finish":
            worker.finish(taken)
        else:
            api.http.post(f"/v1/jobs/{job_id}/cancel")
        answers = [poll.result(5) for poll in polls]
        assert time.monotonic() - ended_at < 1
    assert {answer.json()["status"] for answer in answers} == {"succeeded" if end == "finish" else "canceled"}
    eventually(lambda: waiters(api) == 0)


def test_a_look_at_an_ended_job_never_waits(api: ApiServer, worker: FakeWorker) -> None:
    job_id = api.submit_id()
    worker.finish(worker.begin())
    began = time.monotonic()
    assert api.http.get(f"/v1/jobs/{job_id}?wait=9").json()["status"] == "succeeded"
    assert time.monotonic() - began < 2


def test_a_client_that_hangs_up_waits_no_more(api: ApiServer, eventually: Eventually) -> None:
    job_id = api.submit_id()
    with pytest.raises(httpx.ReadTimeout):
        api.http.get(f"/v1/jobs/{job_id}?wait=9", timeout=0.3)
    with pytest.raises(httpx.ReadTimeout):
        api.submit_patiently(timeout=0.3)
    eventually(lambda: waiters(api) == 0)


def test_too_many_waiters_are_refused_but_jobs_are_not(
    start_api: StartApi, redis_url: str, eventually: Eventually
) -> None:
    api = start_api(redis_url, max_waiters=1)
    job_id = api.submit_id()
    with ThreadPoolExecutor() as pool:
        poll = pool.submit(api.http.get, f"/v1/jobs/{job_id}?wait=9")
        eventually(lambda: waiters(api) == 1)
        for path in (f"/v1/jobs/{job_id}?wait=9", f"/v1/jobs/{job_id}/events"):
            refused = api.http.get(path)
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_waiters")
            assert int(refused.headers["retry-after"]) >= 1
        assert api.submit(headers={"Prefer": "wait=9"}).status_code == 202
        api.http.post(f"/v1/jobs/{job_id}/cancel")
        assert poll.result(5).json()["status"] == "canceled"
