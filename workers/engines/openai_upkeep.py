"""Keeps a server serving: one life after another, with pauses between them, till that is hopeless."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping

from nowserving.catalog import Model
from nowserving.errors import EngineError, EngineUnavailableError, NowservingError
from workers.engines.openai_dialect import Dialect
from workers.engines.openai_server import DeadError, Rhythm, Server, authorization
from workers.engines.server import server_environment

log = logging.getLogger(__name__)

START_SECONDS = 600.0


class Upkeep:
    """Made on any thread, run in the engine's loop. `ready` hears, with None, that it serves, or why it never will;
    `lost` hears of each death; `tokens` gives a number that grows with each token of any job.

    A command is started again when it dies or hangs, and given up after some quick deaths in a row. A server at a URL
    is not ours: it is waited for.
    """

    def __init__(
        self,
        model: Model,
        worker_environment: Mapping[str, str],
        rhythm: Rhythm,
        ready: Callable[[NowservingError | None], None],
        lost: Callable[[str], None],
        tokens: Callable[[], int],
    ) -> None:
        """Raises EngineError if the worker's environment has not what the catalog names."""
        self._model, self._rhythm = model, rhythm
        self._tell_ready, self._tell_lost, self._tokens = ready, lost, tokens
        self._environment = server_environment(model.environment or {}, worker_environment)
        self._headers = authorization(model, worker_environment)
        self._start_seconds = model.start_timeout_seconds or START_SECONDS
        self._been_up = False
        self._busy_until = 0.0
        self.server: Server | None = None
        """The last one; it serves unless `down` says otherwise."""
        self.dialect = Dialect("")
        """Of the last one that served."""
        self.down = "the server starts"
        self.over = ""
        """Why it was given up; "" while it is not."""

    def full(self) -> str:
        """Why it has no room for one more job though it serves, or ""."""
        full = self.server.full if self.server else ""
        busy = time.monotonic() < self._busy_until
        return full or ("the server takes no more jobs now" if busy else "")

    def note_busy(self) -> None:
        """It has refused a job for want of room."""
        self._busy_until = time.monotonic() + self._rhythm.busy

    async def gone(self) -> bool:
        """A connection broke: has the server gone?"""
        server = self.server
        if not self.down and server and (reason := await server.find_dead()) and server is self.server:
            self.down = reason
        return bool(self.down) or server is not self.server

    async def keep(self) -> None:
        """Keep it serving until that is hopeless, which `over` then says, or until this is cancelled."""
        deaths, loop = 0, asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                reason = await self._live()
                deaths = deaths + 1 if loop.time() - began < self._rhythm.quick else 1
                if self._model.command and deaths >= self._rhythm.deaths:
                    raise EngineError(f"the server has died {deaths} times in a row soon after its start: {reason}")
                pause = min(self._rhythm.longest_pause, self._rhythm.pause * 2 ** (deaths - 1))
                pause *= random.uniform(0.5, 1.0)
                log.warning("%s: %s; next try in %.1f s", self._model.name, reason, pause)
                await asyncio.sleep(pause)
        except NowservingError as error:
            self.over = self.down = error.message
            self._tell_lost(error.message)
            self._tell_ready(error)

    async def _live(self) -> str:
        """One life; how it ended. Raises EngineError if no other is worth a try."""
        server = self.server = Server(self._model, self._environment, self._headers, self._rhythm)
        try:
            reason = await self._serve(server)
            self.down = reason
            self._tell_lost(reason)
            return reason
        finally:
            self.down = self.down or "the server is being stopped"
            await server.stop()

    async def _serve(self, server: Server) -> str:
        try:
            reason = await self._bring_up(server)
            if reason:
                return reason
            self.dialect = server.dialect
            self.down, self._been_up = "", True
            self._tell_ready(None)
            return await server.watch(self._tokens)
        except NowservingError:
            raise
        except Exception as error:
            log.exception("%s: its server does what nobody foresaw", self._model.name)
            reason = f"the server does what nobody foresaw: {error!r}"
            if not self._been_up:
                raise EngineError(reason) from error
            return reason

    async def _bring_up(self, server: Server) -> str:
        """Wait until it serves; why it never did, or "". Raises EngineError if no other life is worth a try."""
        waits = self._model.url is not None and self._been_up
        try:
            async with asyncio.timeout(None if waits else self._start_seconds):
                await server.begin(self._say)
            return ""
        except DeadError as error:
            return str(error)
        except TimeoutError:
            reason = f"the server was not ready in {self._start_seconds:g} s: {self.down}"
            if not self._been_up:
                raise EngineUnavailableError(reason) from None
        except NowservingError as error:
            reason = error.message
        if not self._been_up:
            raise EngineError(reason)
        return reason

    def _say(self, reason: str) -> None:
        if reason != self.down and self._model.url:
            log.info("%s: %s", self._model.name, reason)
        self.down = reason
