"""A job's webhook over HTTP: what is accepted, what is refused and by which rule, and that no secret is ever told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nowserving import keys, verb
from nowserving.job import Status
from nowserving.receiver import DEFAULT_EVENTS
from nowserving.receivers import hash_key
from nowserving.secret import new_secret
from nowserving.store import Store
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker
from tests.redis_server import RedisServer

StartApi = Callable[..., ApiServer]

URL = "https://hooks.example/nowserving"
SECRET, OTHER, SERVERS = new_secret(), new_secret(), new_secret()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NAMES = {
    "hooks.example": ["93.184.215.14"],
    "inside.example": ["10.1.2.3"],
    "both.example": ["93.184.215.14", "127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "six.example": ["::ffff:192.168.0.1"],
}


def resolve(host: str, _: int) -> list[str]:
    """The only names there are."""
    if host not in NAMES:
        raise OSError("there is no such name")
    return NAMES[host]


@pytest.fixture(scope="module")
def shared_hooked(redis_server: RedisServer) -> Iterator[ApiServer]:
    server = ApiServer(redis_server.url, resolver=resolve, webhook_secret=SERVERS).start()
    yield server
    server.stop()


@pytest.fixture
def hooked(shared_hooked: ApiServer, redis_url: str) -> ApiServer:
    """An API that has a secret, on an empty Redis."""
    assert redis_url
    return shared_hooked


def record(store: Store, job_id: str) -> Any:
    """The receivers in the job's record."""
    return json.loads(store.client.hget(keys.JOB + job_id, "webhook") or "[]")


def refused(api: ApiServer, webhook: object) -> tuple[str, str]:
    """Field and rule of a 422."""
    answer = api.submit(webhook=webhook)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    said = answer.json()
    assert said["code"] == "invalid_input"
    (error,) = said["errors"]
    assert said["detail"] == f"{error['field']}: {error['message']}"
    return error["field"], error["message"]


def test_a_webhook_is_accepted_and_shown_without_its_secret(hooked: ApiServer, live: Store) -> None:
    answer = hooked.submit(webhook={"url": URL, "events": ["job.failed", "job.started"], "secret": SECRET})
    job = answer.json()
    assert answer.status_code == 202, answer.text
    assert job["webhook"] == {"url": URL, "events": ["job.failed", "job.started"]}
    assert job["deliveries"] == []
    (kept,) = record(live, job["id"])
    assert (kept["url"], kept["host"], kept["secret"]) == (URL, "hooks.example:443", SECRET)
    assert "name" not in kept
    listed = hooked.http.get("/v1/jobs").json()["data"]
    shown = hooked.http.get(job["urls"]["self"]).json()
    assert [shown["webhook"], listed[0]["webhook"]] == [job["webhook"]] * 2
    assert shown["deliveries"] == []


def test_without_events_it_is_all_but_started(hooked: ApiServer) -> None:
    assert hooked.submit(webhook={"url": URL}).json()["webhook"]["events"] == list(DEFAULT_EVENTS)


def test_a_job_without_one_says_so(hooked: ApiServer) -> None:
    job = hooked.submit().json()
    assert job["webhook"] is None
    assert "deliveries" not in job


@pytest.mark.parametrize(
    ("webhook", "field", "says"),
    [
        (URL, "webhook", "object"),
        ({}, "webhook.url", "required"),
        ({"url": 7}, "webhook.url", "string"),
        ({"url": ""}, "webhook.url", "at least 1"),
        ({"url": "https://hooks.example/" + "x" * 2027}, "webhook.url", "at most 2048"),
        ({"url": "http://hooks.example/"}, "webhook.url", "https"),
        ({"url": "ftp://hooks.example/"}, "webhook.url", "https"),
        ({"url": "hooks.example"}, "webhook.url", "begins with https://"),
        ({"url": "https://"}, "webhook.url", "host"),
        ({"url": "https:///path"}, "webhook.url", "host"),
        ({"url": "https://user@hooks.example/"}, "webhook.url", "user name"),
        ({"url": "https://user:word@hooks.example/"}, "webhook.url", "password"),
        ({"url": f"{URL}#part"}, "webhook.url", "fragment"),
        ({"url": "https://hooks.example:25/"}, "webhook.url", "25"),
        ({"url": "https://127.0.0.1/"}, "webhook.url", "loopback"),
        ({"url": "https://2130706433/"}, "webhook.url", "four decimal numbers"),
        ({"url": "https://0177.0.0.1/"}, "webhook.url", "four decimal numbers"),
        ({"url": "https://0x7f.1/"}, "webhook.url", "four decimal numbers"),
        ({"url": "https://[::1]/"}, "webhook.url", "loopback"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "webhook.url", "IPv4-mapped"),
        ({"url": "https://[fe80::1%25eth0]/"}, "webhook.url", "zone"),
        ({"url": "https://inside.example/"}, "webhook.url", "10.1.2.3"),
        ({"url": "https://both.example/"}, "webhook.url", "127.0.0.1"),
        ({"url": "https://metadata.example/"}, "webhook.url", "169.254.169.254"),
        ({"url": "https://six.example/"}, "webhook.url", "IPv4-mapped"),
        ({"url": URL, "events": []}, "webhook.events", "at least 1"),
        ({"url": URL, "events": "job.failed"}, "webhook.events", "array"),
        ({"url": URL, "events": ["job.done"]}, "webhook.events.0", "'job.succeeded'"),
        ({"url": URL, "events": ["job.failed", "job.done"]}, "webhook.events.1", "'job.succeeded'"),
        ({"url": URL, "secret": SECRET[:30]}, "webhook.secret", "24 to 64 bytes"),
        ({"url": URL, "secret": "x" * 40}, "webhook.secret", "whsec_"),
        ({"url": URL, "secret": 7}, "webhook.secret", "string"),
        ({"url": URL, "event": []}, "webhook.event", "allowed are url, events, secret"),
    ],
)
def test_a_wrong_webhook_is_refused_by_field_and_rule(
    hooked: ApiServer, webhook: object, field: str, says: str
) -> None:
    named, message = refused(hooked, webhook)
    assert named == field
    assert says in message


def test_a_name_that_is_not_found_is_accepted(hooked: ApiServer) -> None:
    assert hooked.submit(webhook={"url": "https://not.yet.example/"}).status_code == 202


def test_without_any_secret_it_is_refused_and_said_what_to_do(start_api: StartApi, redis_url: str) -> None:
    api = start_api(redis_url, resolver=resolve)
    field, message = refused(api, {"url": URL})
    assert field == "webhook.secret"
    assert "NOWSERVING_WEBHOOK_SECRET" in message
    assert "whsec_" in message
    assert api.submit(webhook={"url": URL, "secret": SECRET}).status_code == 202


def test_what_the_settings_allow_may_be_private_plain_and_on_any_port(start_api: StartApi, redis_url: str) -> None:
    api = start_api(redis_url, resolver=resolve, webhook_secret=SERVERS, webhook_allow="inside.example,127.0.0.1")
    for url in ("http://inside.example:8080/", "https://inside.example/", "http://127.0.0.1:9999/hook"):
        assert api.submit(webhook={"url": url}).status_code == 202, url
    assert refused(api, {"url": "http://hooks.example/"})[0] == "webhook.url"


def test_no_secret_is_in_any_answer_log_or_document(
    hooked: ApiServer, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        headers = {"Idempotency-Key": "k"}
        told = [hooked.submit(webhook={"url": URL, "secret": SECRET, "events": ["job.canceled"]}, headers=headers)]
        job = told[0].json()
        worker.finish(worker.begin(), "broke", Status.FAILED)
        told += [
            hooked.submit(webhook={"url": URL, "secret": SECRET, "events": ["job.canceled"]}, headers=headers),
            hooked.submit(webhook={"url": URL, "secret": OTHER}, headers=headers),
            hooked.submit(webhook={"url": URL, "secret": SECRET + "="}),
            hooked.submit(webhook={"url": URL, "secret": SECRET[:-9]}),
            hooked.submit(webhook={"url": URL, "secret": [SECRET]}),
            hooked.submit(webhook={"url": "http://127.0.0.1/", "secret": SECRET}),
            hooked.submit(webhook={"url": URL, "secret": SECRET, "more": 1}),
            hooked.http.get(job["urls"]["self"]),
            hooked.http.get("/v1/jobs"),
            hooked.http.post(f"{job['urls']['self']}/retry"),
            hooked.http.get("/openapi.json"),
        ]
        worker.store.client.hset(keys.JOB + job["id"], "webhook", json.dumps([{"url": URL, "secret": SECRET}]))
        told.append(hooked.http.get(job["urls"]["self"]))
    assert told[-1].json()["code"] == "unreadable_record"
    for text in (*(answer.text for answer in told), caplog.text):
        for secret in (SECRET, OTHER, SERVERS):
            assert not any(secret[i : i + 8] in text for i in range(6, len(secret) - 8))


def test_the_same_key_and_webhook_make_one_job(hooked: ApiServer) -> None:
    def submit(**webhook: object) -> tuple[int, str]:
        answer = hooked.submit(webhook={"url": URL, **webhook}, headers={"Idempotency-Key": "k"})
        return answer.status_code, answer.json().get("id") or answer.json()["code"]

    first = submit(secret=SECRET)
    assert submit(secret=SECRET) == submit(secret=SECRET, events=list(DEFAULT_EVENTS)) == first
    assert first[0] == 202
    reused = (422, "idempotency_key_reused")
    assert [submit(secret=OTHER), submit(), submit(secret=SECRET, events=["job.failed"])] == [reused] * 3


def test_a_retry_calls_back_whom_the_job_did(hooked: ApiServer, live: Store, worker: FakeWorker) -> None:
    job = hooked.submit(
        webhook={"url": URL, "secret": SECRET, "events": ["job.started"]}, headers={"traceparent": TRACE}
    ).json()
    worker.finish(worker.begin(), "broke", Status.FAILED)
    anew = hooked.http.post(f"{job['urls']['self']}/retry").json()
    assert record(live, anew["id"]) == record(live, job["id"]) != []
    assert anew["webhook"] == job["webhook"]
    assert live.run(verb.look(anew["id"])).job.traceparent is None


@pytest.mark.parametrize(("sent", "kept"), [(TRACE, TRACE), (TRACE.upper(), None), ("x", None)])
def test_a_trace_is_kept(hooked: ApiServer, live: Store, sent: str, kept: str | None) -> None:
    job_id = hooked.submit(webhook={"url": URL}, headers={"traceparent": sent}).json()["id"]
    assert live.run(verb.look(job_id)).job.traceparent == kept


@pytest.fixture
def defaults(start_api: StartApi, redis_url: str, tmp_path: Path) -> ApiServer:
    """An API with a receivers file and no secret of its own."""
    file = tmp_path / "receivers.toml"
    file.write_text(
        f'[receivers.all]\nurl = "{URL}/all"\nsecrets = ["{SECRET}"]\n'
        f'[receivers.shop]\nurl = "{URL}/shop"\nsecrets = ["{OTHER}"]\nevents = ["job.failed"]\n'
        f'keys = ["{hash_key("k1")}"]\nconcurrency = 2\n'
    )
    return start_api(redis_url, resolver=resolve, receivers_file=file)


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ({}, ["all"]),
        ({"X-API-Key": "k1"}, ["all", "shop"]),
        ({"Authorization": "Bearer k1"}, ["all", "shop"]),
        ({"Authorization": "Bearer k2"}, ["all"]),
    ],
)
def test_receivers_by_default_are_those_of_the_key(
    defaults: ApiServer, live: Store, worker: FakeWorker, headers: dict[str, str], names: list[str]
) -> None:
    job = defaults.submit(headers=headers).json()
    assert (job["webhook"], job["deliveries"]) == (None, [])
    assert [receiver["name"] for receiver in record(live, job["id"])] == names
    assert not any("secret" in receiver for receiver in record(live, job["id"]))
    worker.finish(worker.begin(), "broke", Status.FAILED)
    told = defaults.http.get(job["urls"]["self"]).json()["deliveries"]
    assert [delivery["receiver"] for delivery in told] == names
    assert {delivery["event"] for delivery in told} == {"job.failed"}


def test_a_jobs_own_webhook_replaces_them(defaults: ApiServer, live: Store) -> None:
    job = defaults.submit(webhook={"url": URL, "secret": SECRET}, headers={"X-API-Key": "k1"}).json()
    assert [receiver["url"] for receiver in record(live, job["id"])] == [URL]
    assert refused(defaults, {"url": URL})[0] == "webhook.secret"


def test_the_documentation_knows_a_webhook(hooked: ApiServer) -> None:
    described = hooked.http.get("/openapi.json").json()
    properties = described["components"]["schemas"]["Webhook"]["properties"]
    assert set(properties) == {"url", "events", "secret"}
    headers = {parameter["name"] for parameter in described["paths"]["/v1/jobs"]["post"]["parameters"]}
    assert {"traceparent", "X-API-Key"} <= headers
