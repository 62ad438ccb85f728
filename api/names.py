"""The addresses of receivers' names, asked for off the event loop, within a second, and remembered for a while."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from nowserving.target import Resolver, resolve

WITHIN_SECONDS = 1.0
FRESH_SECONDS = 60.0
UNKNOWN_SECONDS = 5.0
"""A name that could not be found may be there soon; whoever delivers asks again."""
MAX_NAMES = 1024
MAX_ASKED = 32
"""Look-ups at once: each has a thread, which a silent resolver may hold for long."""

Found: TypeAlias = Sequence[str] | None


@dataclass(slots=True)
class _Known:
    until: float
    found: asyncio.Future[Found]


class Names:
    """What hosts' addresses were a moment ago. All who ask for one at the same time share one look-up."""

    def __init__(self, resolver: Resolver = resolve) -> None:
        self._resolver = resolver
        self._known: dict[str, _Known] = {}
        """The one learnt longest ago comes first."""
        self._free = threading.Semaphore(MAX_ASKED)

    async def find(self, host: str, port: int) -> Found:
        """Its addresses; None if it has none, or if they were not told in time."""
        known = self._known.get(host)
        if known is None or time.monotonic() >= known.until:
            known = self._ask(host, port)
        return await asyncio.shield(known.found)

    def _ask(self, host: str, port: int) -> _Known:
        loop = asyncio.get_running_loop()
        known = _Known(time.monotonic() + FRESH_SECONDS, loop.create_future())
        self._known.pop(host, None)
        if len(self._known) >= MAX_NAMES:
            del self._known[next(iter(self._known))]
        self._known[host] = known

        def tell(found: Found) -> None:
            if known.found.done():
                return
            if found is None:
                known.until = time.monotonic() + UNKNOWN_SECONDS
            known.found.set_result(found)

        def look_up() -> None:
            found = None
            try:
                with suppress(OSError, ValueError):
                    found = self._resolver(host, port) or None
            finally:
                self._free.release()
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(tell, found)

        if self._free.acquire(blocking=False):
            loop.call_later(WITHIN_SECONDS, tell, None)
            # No pool's: those are waited for at exit.
            threading.Thread(target=look_up, name="names", daemon=True).start()
        else:
            tell(None)
        return known
