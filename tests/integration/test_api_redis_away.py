"""Redis goes away and comes back: the API says so within 2 s, loses and doubles nothing, and recovers by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from nowserving import keys
from nowserving.errors import StoreUnavailableError
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker
from tests.redis_server import RedisServer
from tests.sse import Reader

StartApi = Callable[..., ApiServer]
Eventually = Callable[..., None]


@pytest.fixture
def api(start_api: StartApi, own_redis: RedisServer) -> ApiServer:
    return start_api(own_redis.url)


@pytest.fixture
def worker(own_redis: RedisServer) -> Iterator[FakeWorker]:
    fake = FakeWorker(own_redis.url)
    yield fake
    fake.close()


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and answer.json()["code"] == "redis_unavailable"


def assert_refused_in_time(call: Callable[[], httpx.Response]) -> None:
    began = time.monotonic()
    answer = call()
    assert time.monotonic() - began < 2
    assert refused(answer), answer.text
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_it_says_so_within_two_seconds_and_recovers(
    api: ApiServer, own_redis: RedisServer, eventually: Eventually, how: str
) -> None:
    job_id = api.submit_id()
    own_redis.suspend() if how == "hanging" else own_redis.stop()
    with ThreadPoolExecutor() as pool:
        calls: list[Callable[[], httpx.Response]] = [
            api.submit,
            lambda: api.submit(headers={"Prefer": "wait=9"}),
            lambda: api.http.get(f"/v1/jobs/{job_id}"),
            lambda: api.http.get(f"/v1/jobs/{job_id}/events"),
            lambda: api.http.post(f"/v1/jobs/{job_id}/cancel"),
            lambda: api.http.post(f"/v1/jobs/{job_id}/retry"),
            lambda: api.http.get("/v1/jobs"),
            lambda: api.http.get("/v1/queues"),
            lambda: api.http.get("/v1/workers"),
        ]
        for future in [pool.submit(assert_refused_in_time, call) for call in calls]:
            future.result()
    eventually(lambda: api.http.get("/health").json()["redis"] == "unavailable")
    assert api.http.get("/health").status_code == api.http.get("/health/live").status_code == 200
    assert api.http.get("/v1/models").status_code == 200
    own_redis.resume() if how == "hanging" else own_redis.start()
    eventually(lambda: api.submit().status_code == 202)
    eventually(lambda: api.http.get("/health").json()["redis"] == "ok")
    eventually(lambda: api.http.get(f"/v1/jobs/{job_id}").status_code == 200)


def test_a_retry_after_503_makes_no_second_job(api: ApiServer, own_redis: RedisServer, eventually: Eventually) -> None:
    headers = {"Idempotency-Key": "k"}
    api.submit_id()
    own_redis.suspend()
    answers = [api.submit("once", headers=headers) for _ in range(2)]
    assert all(refused(answer) for answer in answers)
    own_redis.resume()  # and does what it was sent meanwhile
    eventually(lambda: api.submit("once", headers=headers).status_code == 202)
    jobs = api.http.get("/v1/jobs").json()["data"]
    assert len(jobs) == 2
    assert api.submit("once", headers=headers).json()["id"] == jobs[0]["id"]


def test_a_reader_goes_on_after_redis_was_away_without_loss_or_repeat(
    api: ApiServer, own_redis: RedisServer, worker: FakeWorker, eventually: Eventually
) -> None:
    with Reader(api, api.submit_id()) as reader:
        job_id = worker.begin()
        worker.tokens(job_id, 0, "a", "b")
        eventually(lambda: reader.text == "ab")
        own_redis.kill()
        own_redis.start()
        # Written before the API's connection is back: no hint tells of these.
        worker.tokens(job_id, 2, "c", "d")
        eventually(lambda: reader.text == "abcd")
        own_redis.suspend()
        time.sleep(0.1)
        own_redis.resume()
        worker.tokens(job_id, 4, "e")
        worker.finish(job_id)
        reader.join(10)
    assert reader.text == "abcde"
    assert len(set(reader.ids)) == len(reader.ids)


def test_a_long_poll_lives_through_a_restart(
    api: ApiServer, own_redis: RedisServer, worker: FakeWorker, eventually: Eventually
) -> None:
    job_id = api.submit_id()
    with ThreadPoolExecutor() as pool:
        poll = pool.submit(api.http.get, f"/v1/jobs/{job_id}?wait=9")
        eventually(lambda: api.app.state.front.hub.waiters == 1)
        own_redis.kill()
        own_redis.start()
        worker.finish(worker.begin())
        assert poll.result(5).json()["status"] == "succeeded"


def test_redis_may_come_after_the_api(start_api: StartApi, own_redis: RedisServer, eventually: Eventually) -> None:
    own_redis.stop()
    api = start_api(own_redis.url)
    assert_refused_in_time(api.submit)
    assert api.http.get("/health").json()["redis"] == "unavailable"
    own_redis.start()
    eventually(lambda: api.submit().status_code == 202)


def test_a_redis_that_comes_later_and_may_lose_jobs_gets_none(
    start_api: StartApi, own_redis: RedisServer, eventually: Eventually
) -> None:
    own_redis.stop()
    api = start_api(own_redis.url)
    own_redis.start("--maxmemory-policy", "allkeys-lru")
    answer = api.submit()
    assert (answer.status_code, answer.json()["code"]) == (503, "redis_unsuitable")
    assert "allkeys-lru" in answer.json()["detail"]
    assert "allkeys-lru" in api.http.get("/health").json()["redis"]
    own_redis.stop()
    own_redis.start()
    eventually(lambda: api.submit().status_code == 202)


def test_time_goes_on_without_workers(
    start_api: StartApi, own_redis: RedisServer, worker: FakeWorker, eventually: Eventually
) -> None:
    lease_seconds = 1.5
    lost = FakeWorker(own_redis.url, "lost")
    api = start_api(own_redis.url, lease_seconds=lease_seconds)
    began = time.monotonic()
    late = api.submit_id(start_within_seconds=0.1, lane="batch")
    job_id = api.submit_id()
    assert lost.begin() == job_id
    lost.store.client.zadd(keys.RUNNING + "noop", {job_id: 1})
    eventually(lambda: api.http.get(f"/v1/jobs/{job_id}").json()["status"] == "queued", 10)
    # Its worker got a lease's time after the API's start to come back.
    assert time.monotonic() - began > lease_seconds - 0.2
    eventually(lambda: api.http.get(f"/v1/jobs/{late}").json()["status"] == "expired")
    lost.close()


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/jobs", {"model": "noop", "input": {"prompt": "a"}}, "application/json"),
        ("/v1/jobs/batch", {"model": "noop", "input": {"prompt": "a"}}, "application/x-ndjson"),
        (
            "/v1/chat/completions",
            {"model": "noop", "messages": [{"role": "user", "content": "a"}]},
            "application/json",
        ),
    ],
)
def test_what_was_refused_since_its_answer_was_lost_is_canceled_unless_it_has_a_key(
    api: ApiServer,
    worker: FakeWorker,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: object,
    kind: str,
) -> None:
    store = api.app.state.front.store
    confirm = store.confirm

    async def lose_the_answer(call: object) -> None:
        await confirm(call)
        raise StoreUnavailableError("Redis does not answer for now")

    def statuses() -> list[str]:
        return [job["status"] for job in api.http.get("/v1/jobs").json()["data"]]

    monkeypatch.setattr(store, "confirm", lose_the_answer)
    for headers in ({"Idempotency-Key": "k"}, {}):  # a cancel of the first would come no later
        answer = api.http.post(path, content=json.dumps(body), headers={"Content-Type": kind, **headers})
        assert answer.status_code == 503
    eventually(lambda: statuses() == ["canceled", "queued"])


def test_what_redis_has_refused_is_not_there_to_be_canceled(api: ApiServer, own_redis: RedisServer) -> None:
    own_redis.configure(min_replicas_to_write=1)
    assert refused(api.submit())
    assert api.app.state.front.canceler.waiting == 0


def test_a_job_that_was_accepted_is_answered_so_though_redis_is_away_at_the_end_of_the_wait(
    api: ApiServer, own_redis: RedisServer, worker: FakeWorker, eventually: Eventually
) -> None:
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(api.submit, "a", {"Prefer": "wait=1"})
        eventually(lambda: worker.take() is not None)
        own_redis.stop()
        assert answer.result(15).status_code == 202
    own_redis.start()
