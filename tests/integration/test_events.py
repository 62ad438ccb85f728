"""The hub: no event is missed by whoever comes when, goes when, or is cut off when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nowserving import keys
from nowserving.call import Call
from nowserving.errors import TooManyWaitersError
from nowserving.events import Hub, Watch
from nowserving.store import AsyncStore, Store, connect, connect_async

SECONDS = 5.0


def emit(store: Store, job_id: str, index: int, kind: str = "token") -> None:
    """What the scripts do: an entry, and a hint that names its type."""
    store.client.xadd(keys.events(job_id), {"type": kind, "at": "1", "index": index, "ids": index, "text": f"{index} "})
    store.client.publish(keys.events(job_id), kind)


@asynccontextmanager
async def hub_on(redis_url: str, max_waiters: int = 1000) -> Any:
    store = AsyncStore(connect_async(redis_url))
    hub = Hub(store, max_waiters)
    hub.start()
    yield hub
    await hub.close()
    await store.close()


def run(redis_url: str, body: Callable[[Hub, Store], Coroutine[Any, Any, None]], max_waiters: int = 1000) -> None:
    """Run the test's body with a hub and, for what others do meanwhile, a blocking store."""

    async def main() -> None:
        others = Store(connect(redis_url))
        async with asyncio.timeout(30), hub_on(redis_url, max_waiters) as hub:
            await body(hub, others)
        others.close()

    asyncio.run(main())


async def texts(watch: Watch, count: int, after: str = "0") -> list[str]:
    """The next so many tokens' texts."""
    found: list[str] = []
    while len(found) < count:
        events = await watch.events(after, SECONDS)
        assert events, f"only {found}"
        found += [str(event.data["text"]) for event in events]
        after = events[-1].id
    return found


def channels(store: Store) -> list[str]:
    return [str(name) for name in store.client.pubsub_channels(keys.events("job*"))]


def test_an_event_before_the_subscription_is_read(redis_url: str) -> None:
    async def body(hub: Hub, others: Store) -> None:
        await asyncio.sleep(0.1)
        with hub.watch("job1") as watch:
            emit(others, "job1", 0)  # nothing has been subscribed to yet: this loop has not turned
            assert channels(others) == []
            assert await texts(watch, 1) == ["0 "]

    run(redis_url, body)


def test_an_event_after_the_subscription_is_read(redis_url: str) -> None:
    async def body(hub: Hub, others: Store) -> None:
        with hub.watch("job1") as watch:
            assert await watch.hinted(SECONDS)
            assert channels(others) == [keys.events("job1")]
            assert not await watch.hinted(0.05)
            emit(others, "job1", 0)
            assert await texts(watch, 1) == ["0 "]

    run(redis_url, body)


@pytest.mark.parametrize("turns", range(6))
def test_who_comes_as_the_last_one_leaves_misses_nothing(redis_url: str, turns: int) -> None:
    async def body(hub: Hub, others: Store) -> None:
        with hub.watch("job1") as watch:
            assert await watch.hinted(SECONDS)
        for _ in range(turns):
            await asyncio.sleep(0)  # the unsubscription goes out on one of these
        with hub.watch("job1") as watch:
            emit(others, "job1", 0)
            assert await texts(watch, 1) == ["0 "]
            emit(others, "job1", 1)
            assert (await texts(watch, 2))[-1] == "1 "

    run(redis_url, body)


def test_who_waits_for_the_end_is_woken_by_nothing_else(redis_url: str) -> None:
    async def body(hub: Hub, others: Store) -> None:
        with hub.watch("job1", end_only=True) as watch, hub.watch("job1") as reader:
            assert await watch.hinted(SECONDS)
            emit(others, "job1", 0)
            assert await texts(reader, 1) == ["0 "]
            assert not await watch.hinted(0)
            others.client.publish(keys.ENDED, "job2")
            assert not await watch.hinted(0.05)
            others.client.publish(keys.ENDED, "job1")
            assert await watch.hinted(SECONDS)

    run(redis_url, body)


def test_all_share_one_connection_and_leave_nothing_behind(redis_url: str) -> None:
    async def body(hub: Hub, others: Store) -> None:
        watches = [hub.watch(f"job{i % 300}", end_only=i >= 600) for i in range(900)]
        for watch in watches:
            watch.__enter__()
        assert all(await asyncio.gather(*(watch.hinted(SECONDS) for watch in watches)))
        subscribers = [c for c in others.client.client_list() if int(c["sub"]) > 1]
        assert len(subscribers) == 1
        assert len(channels(others)) == 300
        for watch in watches:
            watch.__exit__()
        async with asyncio.timeout(SECONDS):
            while channels(others):  # noqa: ASYNC110  # it is Redis that changes
                await asyncio.sleep(0.01)
        assert hub.waiters == 0

    run(redis_url, body)


def test_a_broken_connection_is_made_again_and_nothing_is_missed(redis_url: str) -> None:
    async def body(hub: Hub, others: Store) -> None:
        with hub.watch("job1") as watch, hub.watch("job2", end_only=True) as waiter:
            assert await watch.hinted(SECONDS)
            assert await waiter.hinted(SECONDS)
            others.client.client_kill_filter(_type="pubsub")
            emit(others, "job1", 0)
            emit(others, "job2", 0, "succeeded")
            assert await texts(watch, 1) == ["0 "]
            assert await waiter.hinted(SECONDS)

    run(redis_url, body)


def test_any_coming_and_going_misses_nothing(redis_url: str) -> None:
    chance = random.Random(0)
    jobs, events = [f"job{i}" for i in range(8)], 20

    async def read_all(hub: Hub, job_id: str) -> list[str]:
        seen: list[str] = []
        after = "0"
        while len(seen) < events:
            with hub.watch(job_id) as watch:
                for event in await watch.events(after, SECONDS):
                    seen.append(str(event.data["text"]))
                    after = event.id
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005]))
        return seen

    async def body(hub: Hub, others: Store) -> None:
        async def write() -> None:
            for index in range(events):
                for job_id in jobs:
                    emit(others, job_id, index)
                    await asyncio.sleep(0)
                if index % 7 == 3:
                    others.client.client_kill_filter(_type="pubsub")
                await asyncio.sleep(chance.choice([0, 0.003]))

        readers = [asyncio.create_task(read_all(hub, job_id)) for job_id in jobs * 3]
        await write()
        for seen in await asyncio.gather(*readers):
            assert seen == [f"{index} " for index in range(events)]

    run(redis_url, body)


def test_a_read_begun_before_an_event_is_not_shared_with_who_heard_of_it(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(hub: Hub, others: Store) -> None:
        store, gate = hub._store, asyncio.Event()
        read_now = store.run

        async def run_late(call: Call[Any]) -> Any:
            answer = await read_now(call)
            await gate.wait()
            return answer

        monkeypatch.setattr(store, "run", run_late)
        early = asyncio.create_task(hub.read("job1", "0"))
        await asyncio.sleep(0.1)
        emit(others, "job1", 0)
        late = asyncio.create_task(hub.read("job1", "0"))
        await asyncio.sleep(0)
        gate.set()
        assert await early == []
        assert len(await late) == 1

    run(redis_url, body)


def test_one_too_many_is_refused(redis_url: str) -> None:
    async def body(hub: Hub, others: Store) -> None:
        with hub.watch("job1"), hub.watch("job2"):
            assert hub.full
            with pytest.raises(TooManyWaitersError, match="2 may"):
                hub.watch("job3")
        hub.watch("job3")

    run(redis_url, body, max_waiters=2)
