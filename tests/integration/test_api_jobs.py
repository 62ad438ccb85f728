"""A job's life over HTTP: submitted, looked at, listed, canceled."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from nowserving import __version__, keys
from nowserving.job import Parameters, Status, is_job_id
from tests.api_server import MODEL, ApiServer
from tests.fake_worker import FakeWorker

StartApi = Callable[..., ApiServer]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")


def test_a_job_is_accepted_at_once_and_says_where_to_look(start_api: StartApi, redis_url: str) -> None:
    api = start_api(redis_url)
    answer = api.submit(metadata={"from": "test"}, parameters={"seed": 7, "stop": ["x"]})
    job = answer.json()
    assert answer.status_code == 202
    assert is_job_id(job["id"])
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["urls"]["self"]
    assert int(answer.headers["retry-after"]) >= 1
    assert (job["status"], job["model"], job["lane"], job["attempt"]) == ("queued", MODEL, "normal", 0)
    assert job["metadata"] == {"from": "test"}
    assert (job["parameters"]["seed"], job["parameters"]["stop"]) == (7, ["x"])
    assert job["queue"]["reason"] == "no_worker"
    assert api.http.get(job["urls"]["self"]).json() == job


def test_a_job_without_a_seed_gets_one_that_is_told(api: ApiServer) -> None:
    seeds = {api.submit().json()["parameters"]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_a_job_goes_from_queued_to_running_to_succeeded(api: ApiServer, worker: FakeWorker) -> None:
    path = f"/v1/jobs/{api.submit_id()}"
    job_id = worker.begin()
    job = api.http.get(path).json()
    assert (job["status"], job["attempt"], job["queue"]) == ("running", 1, None)
    assert RFC3339.match(job["started_at"])
    worker.tokens(job_id, 0, "done")
    worker.finish(job_id, "done")
    job = api.http.get(path).json()
    assert job["status"] == "succeeded"
    assert job["output"] == {
        "text": "done",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    assert RFC3339.match(job["finished_at"])


def test_a_failed_job_says_why(api: ApiServer, worker: FakeWorker) -> None:
    job_id = api.submit_id()
    worker.finish(worker.begin(), "it broke", Status.FAILED)
    job = api.http.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["output"]) == ("failed", None)
    assert job["error"] == {"code": "engine_error", "message": "it broke", "retryable": True}


def test_a_queued_job_says_its_place_and_why_it_waits(api: ApiServer, worker: FakeWorker) -> None:
    first, second = api.submit_id(), api.submit_id()
    worker.beat(running=2, gate={"open": False, "reason": "slots"})
    queues = [api.http.get(f"/v1/jobs/{job_id}").json()["queue"] for job_id in (first, second)]
    assert [queue["position"] for queue in queues] == [0, 1]
    assert [queue["depth"] for queue in queues] == [2, 2]
    assert [queue["reason"] for queue in queues] == ["slots", "slots"]
    worker.beat(gate={"open": True, "reason": None})
    queue = api.http.get(f"/v1/jobs/{second}").json()["queue"]
    assert (queue["reason"], queue["estimated_wait_seconds"]) == ("behind", 0.0)


def test_the_batch_lane_stands_behind_the_normal_one(api: ApiServer) -> None:
    batch = api.submit(lane="batch").json()
    normal = api.submit().json()
    assert (batch["queue"]["position"], normal["queue"]["position"], normal["queue"]["depth"]) == (0, 0, 2)
    assert api.http.get(batch["urls"]["self"]).json()["queue"]["position"] == 1


def test_jobs_are_listed_newest_first_in_pages(api: ApiServer, worker: FakeWorker) -> None:
    ids = [api.submit_id() for _ in range(5)]
    worker.finish(worker.begin())
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = api.http.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
    assert seen == ids[::-1]
    assert cursor is None
    succeeded = api.http.get("/v1/jobs?status=succeeded").json()["data"]
    assert [job["id"] for job in succeeded] == [ids[0]]
    assert len(api.http.get(f"/v1/jobs?model={MODEL}").json()["data"]) == 5
    assert api.http.get("/v1/jobs?model=nix").json() == {"data": [], "next_cursor": None}


def test_cancel_ends_a_queued_job_at_once_and_twice_is_once(api: ApiServer) -> None:
    path = f"/v1/jobs/{api.submit_id()}"
    for _ in range(2):
        answer = api.http.post(f"{path}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert api.http.get("/v1/queues").json()["data"][0]["depth"] == 0


def test_cancel_of_a_running_job_keeps_what_it_made(api: ApiServer, worker: FakeWorker) -> None:
    path = f"/v1/jobs/{api.submit_id()}"
    worker.tokens(worker.begin(), 0, "so ", "far")
    job = api.http.post(f"{path}/cancel").json()
    assert (job["status"], job["output"]["text"], job["output"]["finish_reason"]) == ("canceled", "so far", "canceled")


def test_a_full_queue_refuses_and_says_when_to_come_again(start_api: StartApi, redis_url: str) -> None:
    api = start_api(redis_url, max_depth=2)
    assert [api.submit().status_code for _ in range(3)] == [202, 202, 429]
    answer = api.submit()
    assert answer.json()["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1


def test_the_same_key_and_body_make_one_job(api: ApiServer, worker: FakeWorker) -> None:
    headers = {"Idempotency-Key": "order 66"}
    first = api.submit(headers=headers, metadata={"a": "1", "b": "2"})
    again = api.submit(headers=headers, metadata={"b": "2", "a": "1"})
    assert again.status_code == 202
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.json() == first.json()
    worker.finish(worker.begin())
    ended = api.submit(headers=headers, metadata={"a": "1", "b": "2"})
    assert (ended.status_code, ended.json()["status"]) == (200, "succeeded")
    assert worker.take() is None


def test_the_same_key_with_another_body_is_refused(api: ApiServer) -> None:
    headers = {"Idempotency-Key": "k"}
    assert api.submit("one", headers=headers).status_code == 202
    answer = api.submit("two", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_the_catalog_has_openais_shape(api: ApiServer) -> None:
    models = api.http.get("/v1/models").json()
    assert models["object"] == "list"
    (model,) = models["data"]
    assert (model["id"], model["object"], model["owned_by"], model["max_new_tokens"]) == (
        MODEL,
        "model",
        "nowserving",
        512,
    )
    assert isinstance(model["created"], int)


def test_queues_and_workers_are_shown(api: ApiServer, worker: FakeWorker) -> None:
    for _ in range(3):
        api.submit_id()
    worker.begin()
    worker.beat(running=1, memory={"used_bytes": 5})
    (queue,) = api.http.get("/v1/queues").json()["data"]
    counts = {name: queue[name] for name in ("model", "depth", "running", "busy", "workers", "blocked")}
    assert counts == {"model": MODEL, "depth": 2, "running": 1, "busy": 1, "workers": 1, "blocked": 0}
    (shown,) = api.http.get("/v1/workers").json()["data"]
    assert (shown["name"], shown["model"], shown["running"], shown["memory"]) == ("fake", MODEL, 1, {"used_bytes": 5})


def test_health(api: ApiServer) -> None:
    assert api.http.get("/health").json() == {"status": "ok", "redis": "ok", "version": __version__}
    assert api.http.get("/health/live").json() == {"status": "ok"}


def test_the_documentation_knows_the_body_of_a_submission(api: ApiServer) -> None:
    described = api.http.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    content = described["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Submission"}
    known = schemas["Parameters"]["properties"]
    assert set(known) == set(Parameters.model_fields)
    assert (known["min_p"]["minimum"], known["min_p"]["maximum"], known["min_p"]["default"]) == (0, 1, 0)
    assert known["repetition_penalty"]["minimum"] == 0.01
    assert known["stop_token_ids"]["maxItems"] == 64
    assert api.http.get("/docs").status_code == 200


LATER = {"min_p": 0.1, "repetition_penalty": 1.2, "stop_token_ids": [7], "ignore_eos": True}


@pytest.mark.parametrize("parameters", [{"temperature": 0.5}, LATER], ids=["1", "2"])
def test_records_of_both_versions_are_shown_listed_run_and_run_anew(
    api: ApiServer, worker: FakeWorker, parameters: dict[str, object]
) -> None:
    job_id = api.submit_id(parameters=parameters)
    assert worker.store.client.hget(keys.JOB + job_id, "v") == ("2" if parameters is LATER else "1")
    shown = api.http.get(f"/v1/jobs/{job_id}").json()
    assert shown["parameters"] == {**Parameters().model_dump(), "seed": shown["parameters"]["seed"], **parameters}
    assert [job["id"] for job in api.http.get("/v1/jobs").json()["data"]] == [job_id]
    assert worker.begin() == job_id
    worker.finish(job_id, "broke", Status.FAILED)
    anew = api.http.post(f"/v1/jobs/{job_id}/retry").json()
    assert anew["parameters"] == shown["parameters"]
    assert worker.begin() == anew["id"]
    assert api.http.post(f"/v1/jobs/{anew['id']}/cancel").json()["status"] == "canceled"


@pytest.mark.parametrize("key", ['"quoted"', "x" * 255, "a b"])
def test_idempotency_keys_are_taken_as_they_are(api: ApiServer, key: str) -> None:
    ids = {api.submit(headers={"Idempotency-Key": key}).json()["id"] for _ in range(2)}
    assert len(ids) == 1
