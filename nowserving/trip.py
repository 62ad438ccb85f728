"""Calls made while others are under way travel to Redis together: under load that makes each a third as costly."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from nowserving import keys
from nowserving.call import Args
from nowserving.refusal import DEMOTED, FORGOTTEN, code_of
from nowserving.script import Script

log = logging.getLogger(__name__)

CALLS_A_TRIP = 64
MARGIN_SECONDS = 0.3
"""What is left of a call's time after replicas were waited for."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas are to have a write before it is answered, and how long they may take, seconds."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """A call's answer. `confirmed`: whether enough replicas have what it wrote; None if none were waited for."""

    reply: Any
    confirmed: bool | None


@dataclass(frozen=True, slots=True)
class _Sent:
    script: Script
    args: Args
    arrived: asyncio.Future[Arrived]
    until: float
    """By the loop's clock."""


class Trips:
    """At most `most` trips at once, each on a connection of its own. With `replicas` each trip waits for them.

    `demoted` is called when Redis has refused as only a server does that is no primary any more.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        scripts: Mapping[str, Script],
        most: int,
        demoted: Callable[[], Awaitable[None]],
        replicas: Replicas | None = None,
    ) -> None:
        self._client, self._scripts, self._most = client, scripts, most
        self._demoted, self._replicas = demoted, replicas
        self._waiting: deque[_Sent] = deque()
        self._traveling = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def go(self, script: str, args: Args, seconds: float) -> Arrived:
        """Send a script and bring back its answer. Raises what redis-py does, or TimeoutError after so long."""
        loop = asyncio.get_running_loop()
        sent = _Sent(self._scripts[script], args, loop.create_future(), loop.time() + seconds)
        self._waiting.append(sent)
        if self._traveling < self._most:
            self._traveling += 1
            task = asyncio.create_task(self._travel())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await sent.arrived

    def close(self) -> None:
        """Set out no more, and wait for nothing."""
        for task in self._tasks:
            task.cancel()

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
                answers = await self._send(batch)
                if any(code_of(answer) in DEMOTED for answer in answers):
                    await self._demoted()
        except Exception as error:
            answers = [error] * len(batch)
        for sent, answer in zip(batch, answers, strict=True):
            if sent.arrived.done():
                continue
            if isinstance(answer, Exception):
                sent.arrived.set_exception(answer)
            else:
                sent.arrived.set_result(answer)

    async def _send(self, batch: Sequence[_Sent]) -> list[Arrived | Exception]:
        answers = await self._send_once(batch, "EVALSHA")
        forgotten = [i for i, answer in enumerate(answers) if code_of(answer) == FORGOTTEN]
        if forgotten:
            # With its text a script cannot be forgotten once more before it runs.
            again = await self._send_once([batch[i] for i in forgotten], "EVAL")
            for i, answer in zip(forgotten, again, strict=True):
                answers[i] = answer
        return answers

    async def _send_once(self, batch: Sequence[_Sent], command: str) -> list[Arrived | Exception]:
        pipeline = self._client.pipeline(transaction=False)
        for sent in batch:
            script = sent.script.sha if command == "EVALSHA" else sent.script.text
            pipeline.execute_command(command, script, 0, *sent.args)
        if self._replicas:
            left_seconds = batch[0].until - asyncio.get_running_loop().time() - MARGIN_SECONDS
            milliseconds = max(1, int(1000 * min(self._replicas.seconds, left_seconds)))
            # WAIT is for what this connection has written, and a resent enqueue writes nothing: this word always does.
            pipeline.publish(keys.REPLICATED, "")
            pipeline.execute_command("WAIT", self._replicas.count, milliseconds)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        confirmed = self._confirmed(replies.pop(), replies.pop()) if self._replicas else None
        return [reply if isinstance(reply, Exception) else Arrived(reply, confirmed) for reply in replies]

    def _confirmed(self, waited: Any, published: Any) -> bool:
        assert self._replicas
        for refused in (waited, published):
            if isinstance(refused, Exception):
                log.warning("replicas cannot be waited for: %s", refused)
                return False
        return int(waited) >= self._replicas.count
