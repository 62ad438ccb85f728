"""GET /metrics: what Prometheus reads is what Redis has, and what docs/metrics.md says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from nowserving.store import Store, connect
from tests.api_server import MODEL, ApiServer
from tests.fake_worker import FakeWorker
from tests.letterbox import DONE, FAILED, beat, fail, pick_one, settle
from tests.redis_server import RedisServer
from tests.scrape import documented, samples

Eventually = Callable[..., None]
StartApi = Callable[..., ApiServer]


@pytest.fixture
def live(redis_url: str) -> Iterator[Store]:
    store = Store(connect(redis_url))
    yield store
    store.close()


def scrape(api: ApiServer) -> dict[str, float]:
    answer = api.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return samples(answer.text)


def test_metrics_say_how_webhooks_and_queues_stand(api: ApiServer, live: Store, worker: FakeWorker) -> None:
    fail(api, worker)
    assert settle(live, pick_one(live), "dead", FAILED)
    fail(api, worker)
    assert settle(live, pick_one(live), "delivered", DONE)
    fail(api, worker)
    assert settle(live, pick_one(live), "retry", FAILED, delay=300)
    fail(api, worker)
    for lane in ("normal", "normal", "batch"):
        api.submit_id(lane=lane)
    worker.begin()
    worker.beat(running=1)
    beat(live)
    found = scrape(api)
    expected = {
        "nowserving_redis_up": 1,
        f"nowserving_queue_depth normal {MODEL}": 1,
        f"nowserving_queue_depth batch {MODEL}": 1,
        f"nowserving_queue_delayed {MODEL}": 0,
        f"nowserving_jobs_running {MODEL}": 1,
        f"nowserving_workers {MODEL}": 1,
        f"nowserving_workers_busy {MODEL}": 1,
        f"nowserving_workers_blocked {MODEL}": 0,
        "nowserving_deliveries pending": 1,
        "nowserving_deliveries sending": 0,
        "nowserving_deliveries delayed": 1,
        "nowserving_deliveries line": 0,
        "nowserving_deliverers": 1,
        "nowserving_deliveries_ended_total delivered": 1,
        "nowserving_deliveries_ended_total dead": 1,
        "nowserving_deliveries_ended_total stopped": 0,
        "nowserving_delivery_attempts_total": 3,
        "nowserving_delivery_failures_total": 2,
    }
    assert {name: found.get(name) for name in expected} == expected
    ages = {f"nowserving_queue_oldest_wait_seconds {MODEL}", "nowserving_deliveries_oldest_wait_seconds"}
    assert set(found) == set(expected) | ages
    assert all(found[name] > 0 for name in ages)
    assert {name.partition(" ")[0] for name in found} == set(documented("The API"))


def test_metrics_are_there_while_redis_is_not(
    start_api: StartApi, own_redis: RedisServer, eventually: Eventually
) -> None:
    api = start_api(own_redis.url)
    own_redis.kill()
    eventually(lambda: scrape(api) == {"nowserving_redis_up": 0}, 10)


def test_the_documentation_knows_them(api: ApiServer) -> None:
    told = api.http.get("/openapi.json").json()["paths"]["/metrics"]["get"]["responses"]["200"]
    assert "text/plain" in told["content"]
