"""The reconciler: goes through all jobs and all places where they stand, round after round, and tells what it mended.

A healthy system gives it nothing to do. Of all API processes one at a time does it: reconcile.lua keeps the others off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from api.pulse import Pulse
from nowserving import verb
from nowserving.errors import NowservingError
from nowserving.events import end_tasks
from nowserving.store import AsyncStore

log = logging.getLogger(__name__)

QUICK_SECONDS = 0.05
"""Between pages of the first round. A page takes some 3 ms of Redis's time."""
SLOW_SECONDS = 1.0
"""Between pages ever after."""
HOLD_SECONDS = 5.0
"""Who has asked for no page for so long has left it to another process."""


class Reconciler:
    """The first round, at start and each time Redis has been away, is quick; then a page a second is looked at."""

    def __init__(self, store: AsyncStore, pulse: Pulse, models: Iterable[str]) -> None:
        self._store, self._pulse = store, pulse
        self._models = tuple(models)
        self._cursor, self._first_round, self._returns = "", True, 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; Redis need not be there."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop where it is."""
        if self._task:
            await end_tasks(self._task)

    async def _run(self) -> None:
        while True:
            try:
                pause_seconds = await self.look_on()
            except NowservingError:
                # The pulse says why.
                pause_seconds = self._begin_anew()
            except Exception:
                log.exception("the reconciler failed")
                pause_seconds = self._begin_anew()
            await asyncio.sleep(pause_seconds)

    async def look_on(self) -> float:
        """Look at one page; seconds till the next."""
        if self._pulse.state != "ok":
            return self._begin_anew()
        if self._pulse.returns != self._returns:
            self._returns = self._pulse.returns
            self._begin_anew()
        call = verb.reconcile(self._pulse.name, self._models, self._cursor, hold_seconds=HOLD_SECONDS)
        page = await self._store.run(call)
        if page is None:
            return self._begin_anew()
        for kind, what in page.mended:
            log.warning("mended: %s: %s", kind, what)
        self._cursor = page.cursor
        self._first_round = self._first_round and bool(page.cursor)
        return QUICK_SECONDS if self._first_round else SLOW_SECONDS

    def _begin_anew(self) -> float:
        self._cursor, self._first_round = "", True
        return SLOW_SECONDS
