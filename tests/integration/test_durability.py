"""What replicas confirm: WAIT on the enqueue's own connection, with a real replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nowserving import keys, verb
from nowserving.answer import Enqueued
from nowserving.call import Call
from nowserving.errors import QueueFullError
from nowserving.job import Submission, fields_of, new_job_id
from nowserving.store import AsyncStore, connect_async
from nowserving.trip import Replicas
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker
from tests.redis_server import RedisServer

StartApi = Callable[..., ApiServer]
MODEL = "noop"
SECONDS = 0.5


@pytest.fixture
def replica(own_redis: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    """A replica of `own_redis`."""
    server = RedisServer(tmp_path)
    server.start()
    server.follow(own_redis)
    yield server
    server.kill()


@pytest.fixture
def worker(own_redis: RedisServer) -> Iterator[FakeWorker]:
    fake = FakeWorker(own_redis.url)
    yield fake
    fake.close()


def run(redis_url: str, body: Callable[[AsyncStore], Awaitable[None]], seconds: float = SECONDS) -> None:
    async def main() -> None:
        store = AsyncStore(connect_async(redis_url), replicas=Replicas(1, seconds))
        async with asyncio.timeout(30):
            await body(store)
        await store.close()

    asyncio.run(main())


def enqueue(job_id: str = "", max_depth: int = 10_000) -> Call[Enqueued]:
    submission = Submission.model_validate({"model": MODEL, "input": {"prompt": "hello"}})
    return verb.enqueue(job_id or new_job_id(), MODEL, fields_of(submission, 1), max_depth=max_depth)


async def waits(store: AsyncStore) -> int:
    """How often WAIT was sent."""
    return int((await store.client.info("commandstats"))["cmdstat_wait"]["calls"])


def test_an_answer_says_whether_the_replica_has_the_job(
    start_api: StartApi, own_redis: RedisServer, replica: RedisServer, worker: FakeWorker
) -> None:
    seconds = 1.0
    api = start_api(own_redis.url, wait_replicas=1, wait_replicas_seconds=seconds)
    ids = set()
    for turn, said in enumerate(("confirmed", "unconfirmed", "confirmed")):
        key = {"Idempotency-Key": f"k{turn}"}
        replica.suspend() if said == "unconfirmed" else replica.resume()
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:
            each = [{}, {"Prefer": "wait=0.01"}, key, key]
            for answer in pool.map(lambda headers: api.submit(headers=headers), each):
                assert (answer.status_code, answer.json()["durability"]) == (202, said)
                ids.add(answer.json()["id"])
        assert time.monotonic() - began < seconds + 0.8
    assert len(ids) == 9
    # What is not confirmed runs all the same.
    for _ in range(9):
        job_id = worker.begin()
        worker.finish(job_id)
        job = api.http.get(f"/v1/jobs/{job_id}").json()
        assert job["status"] == "succeeded"
        assert "durability" not in job
        ids.remove(job_id)


def test_more_replicas_than_there_are_never_confirm(
    start_api: StartApi, own_redis: RedisServer, replica: RedisServer
) -> None:
    api = start_api(own_redis.url, wait_replicas=2, wait_replicas_seconds=0.05)
    answer = api.submit()
    assert (answer.status_code, answer.json()["durability"]) == (202, "unconfirmed")


def test_nobody_waits_when_no_replica_is_asked(
    start_api: StartApi, own_redis: RedisServer, replica: RedisServer, worker: FakeWorker
) -> None:
    api = start_api(own_redis.url)
    worker.store.client.config_resetstat()
    replica.suspend()
    assert "durability" not in api.submit().json()
    stats = worker.store.client.info("commandstats")
    assert "cmdstat_evalsha" in stats
    assert "cmdstat_wait" not in stats


def test_scripts_that_redis_has_forgotten_are_confirmed_too(own_redis: RedisServer, replica: RedisServer) -> None:
    async def body(store: AsyncStore) -> None:
        for confirmed in (True, False):
            replica.resume() if confirmed else replica.suspend()
            await store.client.script_flush()
            answers = await asyncio.gather(*(store.confirm(enqueue()) for _ in range(20)))
            assert [said for _, said in answers] == [confirmed] * 20
            assert not any(enqueued.existed for enqueued, _ in answers)
        replica.resume()
        await store.client.script_flush()
        before = await waits(store)
        await store.confirm(enqueue())
        # Once for nothing, and once behind the job.
        assert await waits(store) - before == 2

    run(own_redis.url, body)


def test_a_resent_enqueue_does_not_claim_what_the_replica_never_got(
    own_redis: RedisServer, replica: RedisServer
) -> None:
    async def body(store: AsyncStore) -> None:
        job_id = new_job_id()
        replica.suspend()
        assert (await store.confirm(enqueue(job_id)))[1] is False
        # On a connection that has written nothing yet.
        await store.client.connection_pool.disconnect()
        enqueued, confirmed = await store.confirm(enqueue(job_id))
        assert (enqueued.existed, confirmed) == (True, False)
        replica.resume()
        assert (await store.confirm(enqueue(job_id)))[1] is True

    run(own_redis.url, body)


def test_each_call_of_a_trip_gets_its_own_answer(own_redis: RedisServer, replica: RedisServer) -> None:
    async def body(store: AsyncStore) -> None:
        calls = [enqueue(max_depth=0 if i % 2 else 10_000) for i in range(20)]
        answers = await asyncio.gather(*map(store.confirm, calls), return_exceptions=True)
        for i, answer in enumerate(answers):
            if i % 2:
                assert isinstance(answer, QueueFullError)
            else:
                assert isinstance(answer, tuple)
                assert (answer[0].existed, answer[1]) == (False, True)

    run(own_redis.url, body)


def test_nobody_else_waits_for_a_replica(own_redis: RedisServer, replica: RedisServer) -> None:
    seconds = 0.8

    async def body(store: AsyncStore) -> None:
        job_id = new_job_id()
        await store.run(enqueue(job_id))
        replica.suspend()
        confirming = [asyncio.create_task(store.confirm(enqueue())) for _ in range(500)]
        await asyncio.sleep(0)
        took = []
        for _ in range(20):
            began = time.monotonic()
            await store.run(verb.look(job_id))
            took.append(time.monotonic() - began)
        assert sorted(took)[10] < seconds / 4
        assert not all(task.done() for task in confirming)
        assert [said for _, said in await asyncio.gather(*confirming)] == [False] * 500
        assert await store.client.zcard(keys.queue(MODEL)) == 501

    run(own_redis.url, body, seconds)
