"""The pulse: knows how Redis is, refuses one that may lose jobs, and lets happen what time alone brings about."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable

from nowserving import verb
from nowserving.answer import Reaped
from nowserving.errors import NowservingError, StoreUnavailableError, UnsuitableRedisError
from nowserving.events import end_tasks
from nowserving.settings import Settings
from nowserving.store import AsyncStore
from nowserving.vigil import Vigil

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
TICKS_A_LEASE = 5
"""Ticks are never so rare that a vigil would end between two of them."""
CHECK_SECONDS = 60.0
"""A suitable Redis can be made unsuitable while it runs."""


class Pulse:
    """`state` is `ok`, `unavailable`, or `unsuitable: …`; a tick old at most. `returns`: how often it became `ok`."""

    def __init__(self, store: AsyncStore, settings: Settings, models: Iterable[str]) -> None:
        self.state = "unavailable"
        self.returns = 0
        self._store = store
        self._vigil = Vigil(settings.lease_seconds)
        self._tick_seconds = min(TICK_SECONDS, settings.lease_seconds / TICKS_A_LEASE)
        self._max_attempts = settings.max_attempts
        self._models = tuple(models)
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self._checked_at = 0.0
        self._checking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Check Redis and begin to tick; a Redis that does not answer may come later. Raises UnsuitableRedisError."""
        try:
            await self.check()
        except StoreUnavailableError as error:
            log.warning("%s; it may come later", error.message)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop ticking."""
        if self._task:
            await end_tasks(self._task)

    async def ensure(self) -> None:
        """Return if Redis may be trusted with a job. Raises UnsuitableRedisError, StoreUnavailableError."""
        if self.state == "ok":
            return
        if self._checking is None or self._checking.done():
            # All who ask now share one answer: none waits longer than one does.
            self._checking = asyncio.create_task(self.check())
        await asyncio.shield(self._checking)

    async def check(self) -> None:
        """Ask Redis what it is. Raises UnsuitableRedisError, StoreUnavailableError."""
        try:
            await self._store.check()
        except NowservingError as error:
            self._note(error)
            raise
        self._checked_at = time.monotonic()
        self._note(None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            try:
                await self._tick()
            except NowservingError as error:
                self._note(error)
            except Exception:
                log.exception("the tick failed")

    async def _tick(self) -> None:
        if self.state != "ok" or time.monotonic() - self._checked_at > CHECK_SECONDS:
            await self.check()
        reap = verb.reap(
            self.name,
            self._models,
            period_seconds=self._tick_seconds * 0.9,
            max_attempts=self._max_attempts,
            reap_until=self._vigil.reap_until,
        )
        reaped = await self._store.run(reap)
        self._vigil.note(reaped.at)
        if reaped.requeued or reaped.failed or reaped.expired:
            log.warning("%d jobs of lost workers queued again, %d failed, %d expired", *_counts(reaped))

    def _note(self, error: NowservingError | None) -> None:
        if error is None:
            state = "ok"
        elif isinstance(error, UnsuitableRedisError):
            state = f"unsuitable: {error.message}"
        else:
            state = "unavailable"
        if state != "ok":
            self._vigil.end()
        if state != self.state:
            self.returns += state == "ok"
            log.log(logging.INFO if state == "ok" else logging.ERROR, "Redis: %s", state)
        self.state = state


def _counts(reaped: Reaped) -> tuple[int, int, int]:
    return reaped.requeued, reaped.failed, reaped.expired
