"""The reconciler of a running API, and what strangers in Redis do to the API and to a worker: nothing lasting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from api import reconcile
from nowserving import keys, verb
from nowserving.job import Status
from nowserving.store import Store, connect
from tests.api_server import MODEL, ApiServer
from tests.fake_worker import FakeWorker
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess, enqueue, look, noop, ready

Eventually = Callable[..., None]
QUEUE = keys.queue(MODEL)
LESS_THAN_SLOW_SECONDS = 15
"""700 jobs are eight pages."""


@pytest.fixture
def _slow_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "SLOW_SECONDS", 5.0)


def mended(api: ApiServer) -> dict[str, int]:
    answer: dict[str, int] = api.http.get("/v1/queues").json()["mended"]
    return answer


@pytest.mark.usefixtures("_slow_rounds")
def test_at_start_all_jobs_are_looked_at_soon_and_what_was_mended_is_told(
    redis_url: str,
    live: Store,
    start_api: Callable[..., ApiServer],
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = [enqueue(live) for _ in range(700)]
    live.client.zrem(QUEUE, *ids[::7])
    live.client.zadd(QUEUE, {"a stranger": 350.5})
    with caplog.at_level(logging.WARNING, "api.reconcile"):
        api = start_api(redis_url)
        eventually(lambda: mended(api) == {"queued_nowhere": 100, "set_aside": 1}, LESS_THAN_SLOW_SECONDS)
        eventually(lambda: f"mended: queued_nowhere: {ids[0]}" in caplog.text)
    (queue,) = api.http.get("/v1/queues").json()["data"]
    assert (queue["depth"], queue["dead"]) == (700, 1)
    assert live.client.zrange(QUEUE, 0, -1) == ids


def test_what_goes_wrong_later_is_found_too_and_by_one_process_alone(
    redis_url: str, live: Store, start_api: Callable[..., ApiServer], eventually: Eventually
) -> None:
    api, other = start_api(redis_url), start_api(redis_url)
    other.app.state.front.pulse.name = "another process"
    eventually(lambda: live.client.get(keys.RECONCILER))
    holder = live.client.get(keys.RECONCILER)
    job_id = api.submit_id()
    live.client.zrem(QUEUE, job_id)
    eventually(lambda: mended(api) == {"queued_nowhere": 1}, 5)
    assert live.client.get(keys.RECONCILER) == holder


@pytest.mark.usefixtures("_slow_rounds")
def test_after_redis_has_been_away_all_is_looked_at_again(
    own_redis: RedisServer, start_api: Callable[..., ApiServer], eventually: Eventually
) -> None:
    store = Store(connect(own_redis.url))
    api = start_api(own_redis.url)
    ids = [enqueue(store) for _ in range(700)]
    own_redis.kill()
    eventually(lambda: api.http.get("/health").json()["redis"] == "unavailable", 10)
    own_redis.start()
    store.client.zrem(QUEUE, *ids[::7])
    eventually(lambda: api.http.get("/health").json()["redis"] == "ok", 10)
    eventually(lambda: mended(api) == {"queued_nowhere": 100}, LESS_THAN_SLOW_SECONDS)
    store.close()


def test_a_stock_celery_clients_pickle_does_not_close_the_queue(
    api: ApiServer, redis_url: str, live: Store, worker: FakeWorker
) -> None:
    with Celery(broker=redis_url) as stock:
        stock.send_task("tasks.add", args=(1, object), queue=QUEUE, serializer="pickle")
        assert live.client.type(QUEUE) == "list"
        job_id = api.submit_id()
        assert worker.take() == job_id
        api.submit_id()
        with pytest.raises(OperationalError, match="WRONGTYPE"):
            # Now that it is a queue again, the stranger is told.
            stock.send_task("tasks.add", args=(1, object), queue=QUEUE, serializer="pickle", retry=False)
    (queue,) = api.http.get("/v1/queues").json()["data"]
    assert (queue["depth"], queue["dead"]) == (1, 1)
    (why,) = live.client.hvals(keys.DEAD + MODEL)
    assert "application/x-python-serialize" in why or '{"body"' in why


def test_one_jobs_poison_is_no_other_ones_error(api: ApiServer, live: Store, worker: FakeWorker) -> None:
    poisoned, job_id = api.submit_id(), api.submit_id()
    live.client.hset(keys.JOB + poisoned, mapping={"input": b"\x80\x04\xff", "created_at": "nan"})
    worker.beat()
    live.client.hset(keys.WORKERS + MODEL, "fake", b"\xff[")
    answer = api.http.get(f"/v1/jobs/{poisoned}")
    assert (answer.status_code, answer.json()["code"]) == (500, "unreadable_record")
    assert api.http.get(f"/v1/jobs/{job_id}").json()["queue"]["position"] == 1
    assert [job["id"] for job in api.http.get("/v1/jobs").json()["data"]] == [job_id]
    assert api.http.get("/v1/workers").json()["data"] == [{"name": "fake", "model": MODEL}]
    assert api.http.get("/v1/queues").json()["data"][0]["workers"] == 1
    assert api.submit().status_code == 202


@pytest.mark.parametrize("change", [{"input": "{"}, {"parameters": "[]"}, {"timeout_seconds": "soon"}], ids=str)
def test_a_worker_fails_what_it_cannot_read_and_goes_on(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually, change: dict[str, str]
) -> None:
    broken = enqueue(live)
    live.client.hset(keys.JOB + broken, mapping=change)  # type: ignore[arg-type]
    live.client.zrem(QUEUE, broken)
    live.client.lpush(QUEUE, b"\x80\x04\xff")
    with WorkerProcess(redis_url, tmp_path, noop()):
        eventually(lambda: ready(live), 30)
        live.run(verb.reconcile("test", [MODEL]))
        eventually(lambda: live.client.hget(keys.JOB + broken, "status") == "failed")
        assert '"unreadable_record"' in str(live.client.hget(keys.JOB + broken, "error"))
        # Both while it waits: the key that wakes it, and its queue.
        with live.client.pipeline(transaction=True) as at_once:
            at_once.delete(keys.wake(MODEL), QUEUE)
            at_once.lpush(keys.wake(MODEL), "a list")
            at_once.lpush(QUEUE, b"\x80\x04\xff")
            at_once.execute()
        job_id = enqueue(live)
        eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 10)
