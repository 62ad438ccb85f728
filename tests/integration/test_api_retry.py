"""POST /v1/jobs/{id}/retry: a failed job anew, as a job of its own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from nowserving import keys, verb
from nowserving.cli import app
from nowserving.client import ApiError, Client
from nowserving.job import Status, is_job_id, new_job_id
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker

runner = CliRunner()

BODY = {
    "parameters": {"max_new_tokens": 7, "temperature": 0.5, "stop": ["x"]},
    "lane": "batch",
    "start_within_seconds": 50,
    "timeout_seconds": 40,
    "retain_seconds": 3000,
    "metadata": {"a": "b"},
}


def fail(api: ApiServer, worker: FakeWorker, **body: object) -> str:
    job_id = api.submit_id(**body)
    assert worker.begin() == job_id
    worker.finish(job_id, "it broke", Status.FAILED)
    return job_id


def test_a_failed_job_is_run_anew_as_it_was(api: ApiServer, worker: FakeWorker) -> None:
    failed = fail(api, worker, **BODY)
    answer = api.http.post(f"/v1/jobs/{failed}/retry")
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert made["id"] != failed
    assert made["retry_of"] == failed
    assert answer.headers["location"] == f"/v1/jobs/{made['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    before, after = (worker.store.run(verb.look(job_id)).job for job_id in (failed, made["id"]))
    for name in (
        "input",
        "parameters",
        "lane",
        "timeout_seconds",
        "retain_seconds",
        "start_within_seconds",
        "metadata",
    ):
        assert getattr(after, name) == getattr(before, name), name
    assert after.start_by is not None
    assert 49 < after.start_by - after.created_at < 51
    assert (after.status, after.attempt, after.retry_of) == (Status.QUEUED, 0, failed)
    assert api.http.get(f"/v1/jobs/{failed}").json()["status"] == "failed"
    assert worker.begin() == made["id"]


@pytest.mark.parametrize("status", ["queued", "running", "succeeded"])
def test_only_what_ended_badly_is_retried(api: ApiServer, worker: FakeWorker, status: str) -> None:
    job_id = api.submit_id()
    if status != "queued":
        worker.begin()
    if status == "succeeded":
        worker.finish(job_id)
    answer = api.http.post(f"/v1/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_retryable")
    assert status in answer.json()["detail"]


def test_a_canceled_job_is_retried(api: ApiServer) -> None:
    job_id = api.submit_id()
    api.http.post(f"/v1/jobs/{job_id}/cancel")
    assert api.http.post(f"/v1/jobs/{job_id}/retry").status_code == 202


def test_an_unknown_job_is_not_retried(api: ApiServer) -> None:
    answer = api.http.post(f"/v1/jobs/{new_job_id()}/retry")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_a_key_makes_one_retry(api: ApiServer, worker: FakeWorker) -> None:
    failed, other = fail(api, worker), fail(api, worker)
    key = {"Idempotency-Key": "again"}
    answers = [api.http.post(f"/v1/jobs/{failed}/retry", headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[1].headers["idempotency-replayed"] == "true"
    conflict = api.http.post(f"/v1/jobs/{other}/retry", headers=key)
    assert (conflict.status_code, conflict.json()["code"]) == (422, "idempotency_key_reused")


def test_the_client_retries(api: ApiServer, worker: FakeWorker) -> None:
    failed = fail(api, worker)
    with Client(api.url) as client:
        assert [job.id for job in client.jobs(status="failed").jobs] == [failed]
        made = client.retry(failed)
        assert (made.retry_of, made.status) == (failed, Status.QUEUED)
        with pytest.raises(ApiError, match="queued"):
            client.retry(made.id)


def test_the_command_retries_and_prints_the_new_jobs_id(api: ApiServer, worker: FakeWorker) -> None:
    failed = fail(api, worker)
    listed = runner.invoke(app, ["jobs", "--status", "failed", "--url", api.url])
    assert (listed.exit_code, "engine_error: it broke" in listed.stdout) == (0, True)
    printed = runner.invoke(app, ["retry", failed, "--url", api.url])
    made = printed.stdout.strip()
    assert (printed.exit_code, is_job_id(made)) == (0, True)
    assert runner.invoke(app, ["job", made, "--url", api.url]).stdout.split()[6:9] == ["retry", "of", failed]
    as_json = runner.invoke(app, ["retry", failed, "--json", "--url", api.url])
    assert json.loads(as_json.stdout)["retry_of"] == failed
    refused = runner.invoke(app, ["retry", made, "--url", api.url])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"{made} is queued" in refused.stderr


def test_a_full_queue_takes_no_retry(start_api: Callable[..., ApiServer], redis_url: str, worker: FakeWorker) -> None:
    api = start_api(redis_url, max_depth=1)
    failed = fail(api, worker)
    assert api.http.post(f"/v1/jobs/{failed}/retry").status_code == 202
    answer = api.http.post(f"/v1/jobs/{failed}/retry")
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_model_that_is_no_longer_in_the_catalog_is_named(api: ApiServer, worker: FakeWorker) -> None:
    failed = fail(api, worker)
    worker.store.client.hset(keys.JOB + failed, "model", "gone")
    answer = api.http.post(f"/v1/jobs/{failed}/retry")
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_model")
    assert "gone" in answer.json()["detail"]


def test_a_job_of_before_has_no_time_to_start_within(api: ApiServer, worker: FakeWorker) -> None:
    """A record of the version before lacks the field."""
    failed = fail(api, worker, start_within_seconds=50)
    worker.store.client.hdel(keys.JOB + failed, "start_within_seconds")
    made = api.http.post(f"/v1/jobs/{failed}/retry").json()["id"]
    assert worker.store.run(verb.look(made)).job.start_by is None


def test_a_wrong_key_or_id_is_refused(api: ApiServer, worker: FakeWorker) -> None:
    failed = fail(api, worker)
    answer = api.http.post(f"/v1/jobs/{failed}/retry", headers={"Idempotency-Key": "k" * 256})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_header")
    assert api.http.post("/v1/jobs/nonsense/retry").json()["code"] == "invalid_job_id"


def test_it_is_in_the_openapi_document(api: ApiServer) -> None:
    told = api.http.get("/openapi.json").json()["paths"]["/v1/jobs/{job_id}/retry"]["post"]
    assert "202" in told["responses"]
    assert "Idempotency-Key" in [parameter["name"] for parameter in told["parameters"]]
