"""The hub: the one connection on which a process hears that something happened to a job, for all who wait for one.

Hints carry no events: who is hinted reads. So a hint that comes twice or too early is harmless, memory is bounded by
the number of waiters, and a reader that comes between two events misses none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any, Self

import redis
from redis.asyncio.client import PubSub

from nowserving import keys, verb
from nowserving.errors import StoreUnavailableError, TooManyWaitersError
from nowserving.event import Event
from nowserving.store import AsyncStore

log = logging.getLogger(__name__)

PING_SECONDS = 5.0
SILENCE_SECONDS = 12.0
"""A connection on which not even a ping's answer came for so long is taken for dead."""
PAUSE_SECONDS = 0.2
"""Between two tries to reach Redis."""
JOBS_A_READ = 32
CHANNELS_A_COMMAND = 500


class Watch:
    """One waiter's interest in one job, while it is entered. With `end_only` the job's end alone gives a hint."""

    def __init__(self, hub: Hub, job_id: str, end_only: bool) -> None:
        self.job_id = job_id
        self.end_only = end_only
        self._hub = hub
        self._hinted = asyncio.Event()
        self._woken = False

    def __enter__(self) -> Self:
        self._hub.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.remove(self)

    def hint(self) -> None:
        """Say that there may be something to read."""
        self._hinted.set()

    def wake(self) -> None:
        """Let `events` return, be there events or not."""
        self._woken = True
        self._hinted.set()

    async def hinted(self, seconds: float) -> bool:
        """Wait for a hint; False if none came in time. The first comes as soon as no later event can be missed."""
        if not self._hinted.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hinted.wait()
        hinted = self._hinted.is_set()
        self._hinted.clear()
        return hinted

    async def events(self, after: str, seconds: float) -> list[Event]:
        """The next events after a stream id, oldest first; none if none came in time, or it was woken.

        Waits out Redis's absences.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self._hinted.wait()
                    self._hinted.clear()
                    woken, self._woken = self._woken, False
                    if (events := await self._hub.read(self.job_id, after)) or woken:
                        if len(events) > 1:
                            # There may be more than one read brings.
                            self._hinted.set()
                        return events
        except TimeoutError:
            # The hint may have been spent on a read that was not answered.
            self._hinted.set()
            return []


class Hub:
    """Hints watches, and reads for them: readers at the same place of the same job share one read."""

    def __init__(self, store: AsyncStore, max_waiters: int) -> None:
        self.waiters = 0
        self._store = store
        self._max_waiters = max_waiters
        self._watches: dict[str, set[Watch]] = {}
        self._end_watches: dict[str, set[Watch]] = {}
        self._hears_ends = False
        self._subscribed: set[str] = set()
        self._confirmed: set[str] = set()
        self._touched: set[str] = set()
        self._changed = asyncio.Event()
        self._asked: dict[tuple[str, str], list[asyncio.Future[list[Event]]]] = {}
        self._asking = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to listen; Redis need not be there."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._read())]

    async def close(self) -> None:
        """Stop listening."""
        await end_tasks(*self._tasks)

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return self.waiters >= self._max_waiters

    def watch(self, job_id: str, *, end_only: bool = False) -> Watch:
        """A watch to enter. Raises TooManyWaitersError."""
        if self.full:
            raise TooManyWaitersError(f"{self.waiters} clients wait on this process, and {self._max_waiters} may")
        return Watch(self, job_id, end_only)

    def add(self, watch: Watch) -> None:
        """Subscribe if it is the job's first. The ends of all jobs are heard in any case."""
        self.waiters += 1
        if watch.end_only:
            self._end_watches.setdefault(watch.job_id, set()).add(watch)
            if self._hears_ends:
                watch.hint()
            return
        channel = keys.events(watch.job_id)
        self._watches.setdefault(channel, set()).add(watch)
        if channel in self._confirmed:
            watch.hint()
        self._touch(channel)

    def remove(self, watch: Watch) -> None:
        """Unsubscribe if it was the job's last."""
        self.waiters -= 1
        if watch.end_only:
            self._end_watches[watch.job_id].discard(watch)
            if not self._end_watches[watch.job_id]:
                del self._end_watches[watch.job_id]
            return
        channel = keys.events(watch.job_id)
        self._watches[channel].discard(watch)
        if not self._watches[channel]:
            del self._watches[channel]
            self._touch(channel)

    async def read(self, job_id: str, after: str) -> list[Event]:
        """Events after a stream id, at once. While Redis is away this waits for it."""
        future: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()
        self._asked.setdefault((job_id, after), []).append(future)
        self._asking.set()
        return await future

    def _touch(self, *channels: str) -> None:
        self._touched.update(channels)
        self._changed.set()

    async def _read(self) -> None:
        """One read at a time, of all that was asked for during the last."""
        while True:
            await self._asking.wait()
            positions: dict[str, str] = {}
            for job_id, after in list(self._asked)[:JOBS_A_READ]:
                positions.setdefault(job_id, after)
            # Who asks from here on has heard of something that this read may be too early for.
            futures = {place: self._asked.pop(place) for place in positions.items()}
            try:
                read: dict[str, list[Event]] | Exception = await self._store.run(verb.read_events(positions))
            except StoreUnavailableError:
                for place, waiting in futures.items():
                    self._asked.setdefault(place, []).extend(waiting)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            except Exception as error:
                log.exception("reading events failed")
                read = error
            for (job_id, _), waiting in futures.items():
                _answer(waiting, read if isinstance(read, Exception) else read[job_id])
            if not self._asked:
                self._asking.clear()

    async def _listen(self) -> None:
        while True:
            demoted = self._store.demoted
            try:
                async with self._store.client.pubsub() as pubsub:
                    await pubsub.subscribe(keys.ENDED)
                    await _run_until_one_ends(self._hear(pubsub), self._tell(pubsub), _note(demoted))
            except (redis.RedisError, OSError) as error:
                log.info("the events' connection broke: %s", error)
            except Exception:
                log.exception("the events' connection failed")
            # All is subscribed to anew, and each confirmation is a hint: nothing sent meanwhile is missed.
            self._hears_ends = False
            self._subscribed.clear()
            self._confirmed.clear()
            self._touch(*self._watches)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _hear(self, pubsub: PubSub) -> None:
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=SILENCE_SECONDS)
            if message is None:
                raise redis.ConnectionError(f"silent for {SILENCE_SECONDS:g} s")
            kind, channel = message["type"], message["channel"]
            if channel == keys.ENDED:
                self._hear_end(message)
                continue
            if kind == "subscribe":
                # It may be of a subscription that has been left since.
                if channel in self._subscribed:
                    self._confirmed.add(channel)
            elif kind != "message":
                continue
            for watch in self._watches.get(channel, ()):
                watch.hint()

    def _hear_end(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._hears_ends = True
            watches = [watch for job in self._end_watches.values() for watch in job]
        else:
            watches = list(self._end_watches.get(message["data"], ()))
        for watch in watches:
            watch.hint()

    async def _tell(self, pubsub: PubSub) -> None:
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                await pubsub.ping()
                continue
            self._changed.clear()
            touched, self._touched = self._touched, set()
            for part in _parts(channel for channel in touched & self._subscribed if channel not in self._watches):
                self._subscribed.difference_update(part)
                self._confirmed.difference_update(part)
                await pubsub.unsubscribe(*part)
            # A channel wanted again by now is subscribed to again, and that is confirmed anew.
            for part in _parts(channel for channel in touched - self._subscribed if channel in self._watches):
                self._subscribed.update(part)
                await pubsub.subscribe(*part)


async def _note(demoted: asyncio.Event) -> None:
    await demoted.wait()
    log.info("the events' connection is left: its Redis is no primary any more")


def _answer(futures: Iterable[asyncio.Future[list[Event]]], read: list[Event] | Exception) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(read, Exception):
            future.set_exception(read)
        else:
            future.set_result(read)


async def end_tasks(*tasks: asyncio.Task[None]) -> None:
    """Cancel until all have ended: before Python 3.12 asyncio.wait_for, and so redis-py, may swallow a cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.1)


async def _run_until_one_ends(*parts: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(*tasks)
    for error in [task.exception() for task in tasks if not task.cancelled()]:
        if error:
            raise error


def _parts(channels: Iterable[str]) -> list[tuple[str, ...]]:
    listed = tuple(channels)
    return [listed[i : i + CHANNELS_A_COMMAND] for i in range(0, len(listed), CHANNELS_A_COMMAND)]
