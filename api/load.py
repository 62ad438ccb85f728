"""How busy the workers are, a moment old: asked of Redis at most once a second, however many clients want to know."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nowserving import verb
from nowserving.errors import NowservingError
from nowserving.store import AsyncStore

FRESH_SECONDS = 1.0
STALE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One model's, as far as they are known."""

    depth: int = 0
    run_seconds: float | None = None
    workers: tuple[dict[str, Any], ...] = ()


class Load:
    """The last figures of each model."""

    def __init__(self, store: AsyncStore, models: Iterable[str]) -> None:
        self._store = store
        self._models = tuple(models)
        self._figures: dict[str, Figures] = {}
        self._asked_at = -math.inf
        self._known_at = -math.inf
        self._asking: asyncio.Task[None] | None = None

    async def recall(self, model: str) -> Figures:
        """What was known a moment ago; renewed meanwhile, so that a busy process never waits for it."""
        if time.monotonic() - self._known_at >= STALE_SECONDS:
            return await self.learn(model)
        self._ask()
        return self._figures.get(model, Figures())

    async def learn(self, model: str) -> Figures:
        """What is known now, or was a second ago."""
        self._ask()
        if self._asking:
            await asyncio.shield(self._asking)
        return self._figures.get(model, Figures())

    async def close(self) -> None:
        """Stop asking."""
        if self._asking:
            await asyncio.wait([self._asking])

    def _ask(self) -> None:
        if self._asking is None and time.monotonic() - self._asked_at >= FRESH_SECONDS:
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        try:
            with suppress(NowservingError):
                queues = await self._store.run(verb.queues(self._models))
                workers = await self._store.run(verb.workers(self._models))
                self._figures = {
                    queue.model: Figures(
                        queue.depth, queue.run_seconds, tuple(w for w in workers if w["model"] == queue.model)
                    )
                    for queue in queues
                }
                self._known_at = time.monotonic()
        finally:
            self._asking = None
