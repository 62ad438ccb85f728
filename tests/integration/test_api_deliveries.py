"""Deliveries over HTTP: seen in the job, listed, redelivered, counted, and looked after by the API's tick."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from nowserving import __version__, keys, verb
from nowserving.call import Call
from nowserving.delivery import WEBHOOKS, Attempt
from nowserving.errors import StoreUnavailableError
from nowserving.store import Store, connect
from tests.api_server import MODEL, ApiServer
from tests.fake_worker import FakeWorker
from tests.letterbox import HOOK, answers, beat, ended, fail, pick, pick_one, receiver, settle
from tests.redis_server import RedisServer

Eventually = Callable[..., None]
StartApi = Callable[..., ApiServer]

NO = Attempt(at=1767225600.25, status=503, seconds=0.125, error=None, answer="busy")
NEVER = Attempt(at=1767225601.0, status=None, seconds=5.0, error="no connection within 5 s")
YES = Attempt(at=1767225602.0, status=204, seconds=0.5)


def deliveries(api: ApiServer, job_id: str) -> list[dict[str, Any]]:
    answer = api.http.get(f"/v1/jobs/{job_id}/deliveries")
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def test_a_job_shows_its_deliveries_and_their_attempts(api: ApiServer, live: Store, worker: FakeWorker) -> None:
    job_id = fail(api, worker)
    job = api.http.get(f"/v1/jobs/{job_id}").json()
    delivery_id = f"dlv_{job_id.removeprefix('job_')}_failed"
    summary = {
        "id": delivery_id,
        "event": "job.failed",
        "receiver": None,
        "url": HOOK["url"],
        "status": "pending",
        "attempt_count": 0,
        "next_attempt_at": None,
    }
    assert job["deliveries"] == [summary]
    (told,) = deliveries(api, job_id)
    times = {"created_at": told["created_at"], "finished_at": None}
    assert told == {**summary, **times, "reason": "no_deliverer", "job": job_id, "attempts": []}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["created_at"])

    beat(live)
    assert deliveries(api, job_id)[0]["reason"] == "behind"
    beat(live, reason="draining")
    assert deliveries(api, job_id)[0]["reason"] == "no_deliverer"

    taken = pick_one(live)
    (told,) = deliveries(api, job_id)
    assert (told["status"], told["reason"]) == ("sending", None)
    assert settle(live, taken, "retry", NO, delay=300, slow=True)
    (told,) = deliveries(api, job_id)
    assert (told["status"], told["reason"], told["attempt_count"]) == ("pending", "retry_backoff", 1)
    assert told["next_attempt_at"] > told["created_at"]
    assert told["attempts"] == [
        {"at": "2026-01-01T00:00:00.250Z", "status": 503, "latency_seconds": 0.125, "error": None, "answer": "busy"}
    ]
    assert api.http.get(f"/v1/jobs/{job_id}").json()["deliveries"][0]["attempt_count"] == 1


def test_a_dead_one_is_listed_and_delivered_anew(api: ApiServer, live: Store, worker: FakeWorker) -> None:
    job_id = fail(api, worker)
    assert settle(live, pick_one(live), "dead", NEVER)
    (dead,) = api.http.get("/v1/deliveries?status=dead").json()["data"]
    assert dead == deliveries(api, job_id)[0]
    assert (dead["status"], dead["attempts"][0]["error"]) == ("dead", NEVER.error)
    assert dead["finished_at"]
    path = f"/v1/deliveries/{dead['id']}/redeliver"
    for _ in range(2):
        answer = api.http.post(path)
        assert answer.status_code == 202, answer.text
        anew = answer.json()
        assert (anew["id"], anew["status"], anew["attempt_count"]) == (dead["id"], "pending", 0)
        assert anew["reason"] == "no_deliverer"
    taken = pick_one(live)
    assert api.http.post(path).json()["status"] == "sending"
    assert settle(live, taken, "delivered", YES)
    (told,) = deliveries(api, job_id)
    assert [attempt["status"] for attempt in told["attempts"]] == [None, 204]
    assert told["status"] == "delivered"
    assert api.http.get("/v1/deliveries?status=dead").json() == {"data": [], "next_cursor": None}


def test_a_redelivery_that_is_not_answered_is_not_written(
    api: ApiServer, live: Store, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks again: it would be sent once more."""
    job_id = fail(api, worker)
    assert settle(live, pick_one(live), "dead", NEVER)
    (dead,) = deliveries(api, job_id)
    store = api.app.state.front.store
    run = store.run

    async def break_off(call: Call[Any]) -> Any:
        if call.script == "workers":
            raise StoreUnavailableError("the connection broke")
        return await run(call)

    monkeypatch.setattr(store, "run", break_off)
    assert api.http.post(f"/v1/deliveries/{dead['id']}/redeliver").status_code == 503
    assert deliveries(api, job_id) == [dead]


def test_a_full_redis_delivers_one_anew_all_the_same(start_api: StartApi, own_redis: RedisServer) -> None:
    api = start_api(own_redis.url)
    with closing(Store(connect(own_redis.url))) as store:
        job_id = ended(store, receiver())
        assert settle(store, pick_one(store), "dead", NEVER)
    own_redis.configure(maxmemory=1)
    answer = api.http.post(f"/v1/deliveries/{deliveries(api, job_id)[0]['id']}/redeliver")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending"), answer.text


def test_they_are_listed_newest_first_in_pages(api: ApiServer, worker: FakeWorker) -> None:
    jobs = [fail(api, worker) for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = api.http.get("/v1/deliveries", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [delivery["job"] for delivery in page["data"]]
        cursor = page["next_cursor"]
    assert seen == jobs[::-1]
    assert cursor is None


def test_a_jobs_deliveries_outlive_it(api: ApiServer, live: Store, worker: FakeWorker) -> None:
    job_id = fail(api, worker)
    live.client.delete(keys.JOB + job_id)
    assert api.http.get(f"/v1/jobs/{job_id}").status_code == 404
    assert [delivery["job"] for delivery in deliveries(api, job_id)] == [job_id]


def test_a_job_without_receivers_has_none(api: ApiServer) -> None:
    assert deliveries(api, api.submit_id()) == []


@pytest.mark.parametrize(
    "garbage",
    [
        {"created_at": "nan"},
        {"finished_at": "1e300"},
        {"status": "lost"},
        {"tries": "many"},
        {"tries": "-1"},
        {"url": None},
    ],
    ids=str,
)
def test_what_cannot_be_read_is_left_out(
    api: ApiServer, live: Store, worker: FakeWorker, garbage: dict[str, str | None]
) -> None:
    broken, good = fail(api, worker), fail(api, worker)
    key = keys.JOB + deliveries(api, broken)[0]["id"]
    for name, value in garbage.items():
        live.client.hdel(key, name) if value is None else live.client.hset(key, name, value)
    assert deliveries(api, broken) == api.http.get(f"/v1/jobs/{broken}").json()["deliveries"] == []
    assert [delivery["job"] for delivery in api.http.get("/v1/deliveries").json()["data"]] == [good]


@pytest.mark.parametrize(
    "line", ["{", '[NaN, 200, 0.1, null, ""]', '[1, 200, -1, null, ""]', "[1]", "[1, 1e999, 1, 1, 1]"]
)
def test_an_attempt_that_cannot_be_read_is_left_out(api: ApiServer, live: Store, worker: FakeWorker, line: str) -> None:
    job_id = fail(api, worker)
    key = keys.JOB + deliveries(api, job_id)[0]["id"]
    live.client.hset(key, "log", f'{line}\n[1, 200, 0.1, null, "ok"]')
    assert [attempt["answer"] for attempt in deliveries(api, job_id)[0]["attempts"]] == ["ok"]


ULID = "01jhs5j3z8q4x1v2w3y4z5a6b7"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/v1/jobs/job_{ULID}/deliveries", 404, "job_not_found"),
        ("GET", "/v1/jobs/nonsense/deliveries", 422, "invalid_job_id"),
        ("POST", f"/v1/deliveries/dlv_{ULID}_failed/redeliver", 404, "delivery_not_found"),
        ("POST", f"/v1/deliveries/job_{ULID}/redeliver", 422, "invalid_delivery_id"),
        ("POST", "/v1/deliveries/x%00y/redeliver", 422, "invalid_delivery_id"),
        ("GET", "/v1/deliveries?status=queued", 422, "invalid_query"),
        ("GET", "/v1/deliveries?limit=101", 422, "invalid_query"),
        ("GET", "/v1/deliveries?cursor=x", 422, "invalid_query"),
        ("DELETE", "/v1/deliveries", 405, "method_not_allowed"),
    ],
)
def test_bad_input_is_a_problem(api: ApiServer, method: str, path: str, status: int, code: str) -> None:
    answer = api.http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_job_is_no_delivery(api: ApiServer, live: Store, worker: FakeWorker) -> None:
    """Both have records of one kind: a delivery's id must not lead to a job's, nor a job's to a delivery's."""
    job_id = fail(api, worker)
    (told,) = deliveries(api, job_id)
    assert api.http.get(f"/v1/jobs/{told['id']}").json()["code"] == "invalid_job_id"
    assert api.http.post(f"/v1/jobs/{told['id']}/cancel").json()["code"] == "invalid_job_id"
    assert [job["id"] for job in api.http.get("/v1/jobs").json()["data"]] == [job_id]


def test_a_lost_deliverers_deliveries_are_queued_again_and_those_due_are(
    start_api: StartApi, redis_url: str, live: Store, worker: FakeWorker, eventually: Eventually
) -> None:
    api = start_api(redis_url, lease_seconds=0.5)
    answers(live, "hooks.example:443")
    lost, due = fail(api, worker), fail(api, worker)
    call = verb.take(WEBHOOKS, "d", ["c1"], lease_seconds=0.1, headroom=1, capacity=1, max_takes=9)
    assert live.run(call)
    (taken,) = pick(live, "c2")
    assert settle(live, taken, "retry", NO, delay=0.2)
    eventually(lambda: live.client.zcard(keys.queue(WEBHOOKS)) == 2, 10)
    assert {deliveries(api, job_id)[0]["status"] for job_id in (lost, due)} == {"pending"}


def test_the_reconciler_finds_a_delivery_that_stands_nowhere(
    start_api: StartApi, redis_url: str, live: Store, worker: FakeWorker, eventually: Eventually
) -> None:
    api = start_api(redis_url)
    job_id = fail(api, worker)
    queue = keys.queue(WEBHOOKS, "batch")  # its host is not known to answer
    assert live.client.zrem(queue, deliveries(api, job_id)[0]["id"]) == 1
    eventually(lambda: live.client.zcard(queue) == 1, 10)


def test_deliverers_are_shown_beside_workers_and_their_queue_is_no_models(api: ApiServer, live: Store) -> None:
    beat(live)
    (shown,) = api.http.get("/v1/workers").json()["data"]
    assert (shown["name"], shown["model"], shown["version"]) == ("d", WEBHOOKS, __version__)
    assert [queue["model"] for queue in api.http.get("/v1/queues").json()["data"]] == [MODEL]


def test_the_documentation_knows_them(api: ApiServer) -> None:
    paths = api.http.get("/openapi.json").json()["paths"]
    assert "202" in paths["/v1/deliveries/{delivery_id}/redeliver"]["post"]["responses"]
    assert {"/v1/deliveries", "/v1/jobs/{job_id}/deliveries"} <= set(paths)
