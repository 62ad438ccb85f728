"""The async store: calls that travel together are answered each, in time, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from nowserving import verb
from nowserving.answer import Enqueued, Look
from nowserving.call import Call
from nowserving.errors import JobNotFoundError, StoreUnavailableError
from nowserving.job import Submission, fields_of, new_job_id
from nowserving.store import API_TOTAL_SECONDS, TRIPS, AsyncStore, connect_async
from nowserving.trip import Arrived
from tests.redis_server import RedisServer

MODEL = "noop"


def run(redis_url: str, body: Callable[[AsyncStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = AsyncStore(connect_async(redis_url))
        async with asyncio.timeout(30):
            await body(store)
        await store.close()

    asyncio.run(main())


def enqueue(job_id: str) -> Call[Enqueued]:
    submission = Submission.model_validate({"model": MODEL, "input": {"prompt": "hello"}})
    return verb.enqueue(job_id, MODEL, fields_of(submission, 1), max_depth=10_000)


@pytest.mark.parametrize("clients", [1, 2, 3, 5, 200])
def test_no_call_is_left_behind(redis_url: str, clients: int) -> None:
    async def body(store: AsyncStore) -> None:
        async def client() -> None:
            for _ in range(600 // clients):
                job_id = new_job_id()
                assert (await store.run(enqueue(job_id))).job_id == job_id
                assert (await store.run(verb.look(job_id))).job.id == job_id

        await asyncio.gather(*(client() for _ in range(clients)))

    run(redis_url, body)


def test_a_call_made_as_the_last_trips_end_is_no_exception(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: AsyncStore) -> None:
        gate = asyncio.Event()

        async def send(batch: Sequence[object]) -> list[Arrived]:
            await gate.wait()
            return [Arrived("done", None)] * len(batch)

        async def client(calls: int) -> list[str]:
            return [await store.run(Call("look", (), str)) for _ in range(calls)]

        monkeypatch.setattr(store._trips, "_send", send)
        clients = []
        for i in range(TRIPS):
            clients.append(asyncio.create_task(client(2 if i == 0 else 1)))
            await asyncio.sleep(0.01)
        gate.set()
        async with asyncio.timeout(5):
            assert await clients[0] == ["done", "done"]

    run(redis_url, body)


def test_one_calls_failure_is_not_the_others(redis_url: str) -> None:
    async def body(store: AsyncStore) -> None:
        job_id, unknown = new_job_id(), new_job_id()
        await store.run(enqueue(job_id))
        calls = [verb.look(i) for i in (job_id, unknown, job_id, unknown)]
        answers = await asyncio.gather(*map(store.run, calls), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Look, JobNotFoundError] * 2

    run(redis_url, body)


def test_scripts_are_loaded_again_when_redis_has_forgotten_them(redis_url: str) -> None:
    async def body(store: AsyncStore) -> None:
        for _ in range(2):
            await store.client.script_flush()
            ids = [new_job_id() for _ in range(20)]
            await asyncio.gather(*(store.run(enqueue(job_id)) for job_id in ids))
            looks = await asyncio.gather(*(store.run(verb.look(job_id)) for job_id in ids))
            assert [look.job.id for look in looks] == ids

    run(redis_url, body)


def test_every_call_is_refused_in_time_and_the_next_ones_are_not(own_redis: RedisServer) -> None:
    async def body(store: AsyncStore) -> None:
        await store.run(enqueue(new_job_id()))
        own_redis.suspend()
        began = time.monotonic()
        answers = await asyncio.gather(*(store.run(enqueue(new_job_id())) for _ in range(300)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailableError}
        assert time.monotonic() - began < API_TOTAL_SECONDS + 0.2
        own_redis.resume()
        await store.run(enqueue(new_job_id()))

    run(own_redis.url, body)


def test_a_caller_that_goes_away_takes_nobody_with_it(redis_url: str) -> None:
    async def body(store: AsyncStore) -> None:
        tasks = [asyncio.create_task(store.run(enqueue(new_job_id()))) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError, Enqueued] * 10

    run(redis_url, body)
