"""The store: sends the verbs' scripts to Redis, and says in our own errors what went wrong."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.backoff import ExponentialWithJitterBackoff
from redis.commands.core import AsyncScript, Script
from redis.exceptions import NoScriptError
from redis.retry import Retry

from nowserving import keys
from nowserving.errors import NowservingError, StoreFullError, StoreUnavailableError, UnsuitableRedisError
from nowserving.verb import Args, Call

T = TypeVar("T")
log = logging.getLogger(__name__)

WRITES = ("enqueue", "take", "begin", "append", "finish", "release", "cancel", "renew", "leave", "reap", "reconcile")
READS = ("look", "list", "queues", "workers", "read", "mended")
SCRIPTS = WRITES + READS

CONNECT_SECONDS = 1.0
WORKER_REPLY_SECONDS = 5.0
API_REPLY_SECONDS = 1.5
API_TOTAL_SECONDS = 1.8
"""An API call is answered or refused within this, so that a client sees a 503 within 2 s."""
TRIPS = 2
CALLS_A_TRIP = 64


def source(script: str) -> str:
    """A script's Lua text with the key names and what all scripts share before it."""
    folder = files("nowserving") / "lua"
    parts = [(folder / f"{name}.lua").read_text("utf-8") for name in ("guard", "prelude", script)]
    return keys.lua_constants() + "".join(parts)


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
    )
    return redis.asyncio.Redis.from_pool(pool)


class Store:
    """Runs calls with a blocking client; safe to share among threads. Raises StoreUnavailableError, StoreFullError."""

    def __init__(self, client: redis.Redis, now: str = "") -> None:
        self.client = client
        self.now = now
        """Passed to each script as its clock; '' means Redis's own. Tests set it."""
        self._scripts: dict[str, Script] = {name: client.register_script(source(name)) for name in SCRIPTS}

    def run(self, call: Call[T]) -> T:
        """Send one call and read its answer. Raises what the verb says, too."""
        try:
            reply = self._scripts[call.script](args=(self.now, *call.args))
        except (redis.RedisError, OSError) as error:
            raise explain(error) from error
        return call.parse(reply)

    def check(self) -> None:
        """Raise UnsuitableRedisError if this Redis could lose jobs."""
        try:
            info = self.client.info()
        except (redis.RedisError, OSError) as error:
            raise explain(error) from error
        judge(info)

    def close(self) -> None:
        """Give up the connections."""
        self.client.close()


@dataclass(frozen=True, slots=True)
class _Sent:
    script: str
    args: Args
    reply: asyncio.Future[Any]
    until: float
    """By the loop's clock."""


class AsyncStore:
    """Runs calls on the event loop. Raises StoreUnavailableError within API_TOTAL_SECONDS, or StoreFullError.

    Calls made while others are under way travel together: under load a call costs a third of what it costs alone.
    """

    def __init__(self, client: redis.asyncio.Redis, now: str = "") -> None:
        self.client = client
        self.now = now
        self._scripts: dict[str, AsyncScript] = {name: client.register_script(source(name)) for name in SCRIPTS}
        self._waiting: deque[_Sent] = deque()
        self._traveling = 0
        self._trips: set[asyncio.Task[None]] = set()

    async def run(self, call: Call[T]) -> T:
        """Send one call and read its answer. Raises what the verb says, too."""
        loop = asyncio.get_running_loop()
        sent = _Sent(call.script, (self.now, *call.args), loop.create_future(), loop.time() + API_TOTAL_SECONDS)
        self._waiting.append(sent)
        if self._traveling < TRIPS:
            self._traveling += 1
            trip = asyncio.create_task(self._travel())
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)
        try:
            reply = await sent.reply
        except (redis.RedisError, OSError) as error:
            raise explain(error) from error
        return call.parse(reply)

    async def _travel(self) -> None:
        try:
            while self._waiting:
                await self._take_along()
        finally:
            # In the same turn as the last look at who waits: whoever comes later sets out on a trip of its own.
            self._traveling -= 1

    async def _take_along(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), CALLS_A_TRIP))]
        try:
            # The first waits longest: none waits beyond its time.
            async with asyncio.timeout_at(batch[0].until):
                replies = await self._send(batch)
        except Exception as error:
            replies = [error] * len(batch)
        for sent, reply in zip(batch, replies, strict=True):
            if sent.reply.done():
                continue
            if isinstance(reply, Exception):
                sent.reply.set_exception(reply)
            else:
                sent.reply.set_result(reply)

    async def _send(self, batch: Sequence[_Sent]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for sent in batch:
            pipeline.evalsha(self._scripts[sent.script].sha, 0, *sent.args)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        for i, sent in enumerate(batch):
            if isinstance(replies[i], NoScriptError):
                replies[i] = await self._scripts[sent.script](args=sent.args)
        return replies

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
        for trip in self._trips:
            trip.cancel()
        await self.client.aclose()


def explain(error: Exception) -> NowservingError:
    """Turn an error of redis-py into one of ours."""
    if "OOM command not allowed" in str(error):
        return StoreFullError("Redis has reached its maxmemory and takes no more jobs for now")
    if isinstance(error, redis.ResponseError) and not _passing(error):
        log.error("Redis refused a script: %s", error)
        return NowservingError(f"Redis refused a script: {error}")
    return StoreUnavailableError("Redis does not answer for now")


def _passing(error: redis.ResponseError) -> bool:
    """Whether a refusal goes away by itself: loading, a failover, a full disk, a script that still runs."""
    return any(word in str(error) for word in ("LOADING", "READONLY", "MASTERDOWN", "MISCONF", "BUSY", "NOREPLICAS"))


def judge(info: Mapping[str, Any]) -> None:
    """Raise UnsuitableRedisError for a cluster or any eviction; `info` is INFO's answer (CONFIG may be forbidden)."""
    if str(info.get("redis_mode", "standalone")) == "cluster":
        raise UnsuitableRedisError("this Redis runs in cluster mode; nowserving needs a single primary")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise UnsuitableRedisError(
            f"this Redis has maxmemory-policy {policy} and could evict jobs; nowserving needs noeviction"
        )
