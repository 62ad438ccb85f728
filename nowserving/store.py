"""The store: sends the verbs' scripts to Redis, and says in our own errors what went wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from nowserving.call import Call
from nowserving.errors import NowservingError, UnsuitableRedisError
from nowserving.primary import greet, greet_async, leave, leave_async
from nowserving.refusal import DEMOTED, FORGOTTEN, code_of, explain, is_away
from nowserving.script import load_scripts
from nowserving.trip import Arrived, Replicas, Trips

T = TypeVar("T")
log = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
WORKER_REPLY_SECONDS = 5.0
API_REPLY_SECONDS = 1.5
API_TOTAL_SECONDS = 1.8
"""An API call is answered or refused within this, so that a client sees a 503 within 2 s."""
TRIPS = 2
CONFIRMING_TRIPS = 16
"""Each may wait as long as replicas may take."""


def _retry(retries: int) -> Retry:
    return Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries)


def connect(url: str) -> redis.Redis:
    """A blocking client for worker threads: 2 retries, no wait longer than WORKER_REPLY_SECONDS."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=WORKER_REPLY_SECONDS,
        socket_keepalive=True,
        retry=_retry(2),
        redis_connect_func=greet,
    )


def connect_async(url: str, connections: int = 64) -> redis.asyncio.Redis:
    """A client for the API's event loop: 1 retry, at most `connections` sockets."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=API_REPLY_SECONDS,
        decode_responses=True,
        encoding_errors="replace",
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=API_REPLY_SECONDS,
        socket_keepalive=True,
        retry=_retry(1),
        redis_connect_func=greet_async,
    )
    return redis.asyncio.Redis.from_pool(pool)


class Store:
    """Runs calls with a blocking client; safe to share among threads. Raises StoreUnavailableError, StoreFullError."""

    def __init__(self, client: redis.Redis, now: str = "") -> None:
        self.client = client
        self.now = now
        """Passed to each script as its clock; '' means Redis's own. Tests set it."""
        self.on_demoted: Callable[[], None] = lambda: None
        """Called when the client's connections were given up, for whoever has connections of another client."""
        self._scripts = load_scripts()

    def run(self, call: Call[T]) -> T:
        """Send one call and read its answer. Raises what the verb says, too."""
        script, args = self._scripts[call.script], (self.now, *call.args)
        try:
            try:
                reply = self.client.evalsha(script.sha, 0, *args)
            except NoScriptError:
                reply = self.client.eval(script.text, 0, *args)
        except (redis.RedisError, OSError) as error:
            raise self.refused(error) from error
        return call.parse(reply)

    def run_all(self, calls: Sequence[Call[T]]) -> list[T | NowservingError]:
        """Send calls of different jobs in one trip, and read the answer of each: its error is its own. Raises nothing.

        Of one job they might come in another order, if Redis has forgotten a script.
        """
        answers = self._send(calls, "EVALSHA")
        if forgotten := [index for index, answer in enumerate(answers) if code_of(answer) == FORGOTTEN]:
            again = self._send([calls[index] for index in forgotten], "EVAL")
            for index, answer in zip(forgotten, again, strict=True):
                answers[index] = answer
        read: list[T | NowservingError] = []
        for call, answer in zip(calls, answers, strict=True):
            try:
                read.append(self.refused(answer) if isinstance(answer, Exception) else call.parse(answer))
            except NowservingError as error:
                read.append(error)
            except Exception as error:
                log.exception("an answer to %s cannot be read", call.script)
                read.append(NowservingError(f"an answer to {call.script} cannot be read: {error!r}"))
        return read

    def _send(self, calls: Sequence[Call[T]], command: str) -> list[Any]:
        pipeline: Any = self.client.pipeline(transaction=False)
        for call in calls:
            script = self._scripts[call.script]
            named = script.sha if command == "EVALSHA" else script.text
            pipeline.execute_command(command, named, 0, self.now, *call.args)
        try:
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        except Exception as error:
            if len(calls) == 1 or is_away(error):
                return [error] * len(calls)
            # One of them holds what cannot be sent: each by itself.
            return [answer for call in calls for answer in self._send([call], command)]
        return answers

    def refused(self, error: Exception) -> NowservingError:
        """One of our errors for one of the client's; if Redis is no primary any more its connections are given up."""
        if code_of(error) in DEMOTED:
            leave(self.client)
            self.on_demoted()
        return explain(error)

    def check(self) -> None:
        """Raise UnsuitableRedisError if this Redis could lose jobs."""
        try:
            info = self.client.info()
        except (redis.RedisError, OSError) as error:
            raise self.refused(error) from error
        judge(info)

    def close(self) -> None:
        """Give up the connections."""
        self.client.close()


class AsyncStore:
    """Runs calls on the event loop. Raises StoreUnavailableError within API_TOTAL_SECONDS, or StoreFullError.

    With `replicas`, `confirm` waits for these, on trips of its own: nobody else waits with it.
    """

    def __init__(self, client: redis.asyncio.Redis, now: str = "", replicas: Replicas | None = None) -> None:
        self.client = client
        self.now = now
        self.demoted = asyncio.Event()
        """Set once Redis is no primary any more, for whoever keeps a connection; then another takes its place."""
        scripts = load_scripts()
        self._trips = Trips(client, scripts, TRIPS, self._leave)
        self._confirming = self._trips
        if replicas:
            self._confirming = Trips(client, scripts, CONFIRMING_TRIPS, self._leave, replicas)

    async def run(self, call: Call[T]) -> T:
        """Send one call and read its answer. Raises what the verb says, too."""
        arrived = await self._go(self._trips, call)
        return call.parse(arrived.reply)

    async def confirm(self, call: Call[T]) -> tuple[T, bool | None]:
        """As `run`, and whether enough replicas have what was written; None if there is no need of any."""
        arrived = await self._go(self._confirming, call)
        return call.parse(arrived.reply), arrived.confirmed

    async def _go(self, trips: Trips, call: Call[T]) -> Arrived:
        try:
            return await trips.go(call.script, (self.now, *call.args), API_TOTAL_SECONDS)
        except (redis.RedisError, OSError) as error:
            raise explain(error) from error

    async def _leave(self) -> None:
        demoted, self.demoted = self.demoted, asyncio.Event()
        demoted.set()
        await leave_async(self.client)

    async def check(self) -> None:
        """Raise UnsuitableRedisError if this Redis could lose jobs."""
        try:
            async with asyncio.timeout(API_TOTAL_SECONDS):
                info = await self.client.info()
        except (redis.RedisError, OSError) as error:
            raise explain(error) from error
        judge(info)

    async def close(self) -> None:
        """Give up the connections."""
        for trips in {self._trips, self._confirming}:
            trips.close()
        await self.client.aclose()


@cache
def warn_of_memory_alone() -> None:
    """Say, once a process, that this Redis writes nothing to disk as it answers."""
    log.warning(
        "this Redis has no append-only file, and its restart loses jobs: set appendonly yes, appendfsync always"
    )


def judge(info: Mapping[str, Any]) -> None:
    """Raise UnsuitableRedisError for a cluster or any eviction; `info` is INFO's answer (CONFIG may be forbidden)."""
    if str(info.get("aof_enabled", "1")) == "0":
        warn_of_memory_alone()
    if str(info.get("redis_mode", "standalone")) == "cluster":
        raise UnsuitableRedisError("this Redis runs in cluster mode; nowserving needs a single primary")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise UnsuitableRedisError(
            f"this Redis has maxmemory-policy {policy} and could evict jobs; nowserving needs noeviction"
        )
