"""One life of a server: started or found, waited for, warmed up, watched till it is dead, stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from nowserving.catalog import Model
from nowserving.errors import EngineError, NowservingError
from workers.engines.openai_chunk import bounded
from workers.engines.openai_dialect import TOKEN_IDS, Dialect, NotReadyError, find_dialect
from workers.engines.openai_meter import measure
from workers.engines.openai_metrics import Fullness, ServerLoad, parse_metrics
from workers.engines.server import ServerProcess


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds, but for the counts.

    `look`: between two looks at a server; `answer`: how long one may take. `hang`: without an answer and without a
    token for so long, it is dead; so it is after `unwell` answers in a row that say so. `quick`: a death sooner than
    this after its start is one of at most `deaths` in a row. `pause`: before it is started again, doubled up to
    `longest_pause`. `busy`: how long the gate stays closed after it has refused a job for want of room.
    """

    look: float = 1.0
    answer: float = 5.0
    hang: float = 30.0
    unwell: int = 3
    quick: float = 60.0
    deaths: int = 5
    pause: float = 0.5
    longest_pause: float = 30.0
    busy: float = 1.0


class DeadError(Exception):
    """The server has died, in the words of which this is made."""


class Server:
    """Used in the engine's loop. `full` is why it has no room, by its metrics; `load` the last that they said."""

    def __init__(
        self, model: Model, environment: Mapping[str, str], headers: Mapping[str, str], rhythm: Rhythm
    ) -> None:
        """A command is started here and now. Raises EngineError if there is no such program."""
        self._model, self._rhythm = model, rhythm
        self._child: ServerProcess | None = None
        self._health_path = "/health"
        self._has_metrics = True
        self._fullness = Fullness()
        self._dead: str | None = None
        self.full = ""
        self.load = ServerLoad()
        self.context_tokens: int | None = None
        self.dialect = Dialect("")
        url = (model.url or "").rstrip("/").removesuffix("/v1")
        if model.command:
            self._child = ServerProcess(model.command, environment, f"{model.name}'s server")
            url = f"http://127.0.0.1:{self._child.port}"
        self.client = httpx.AsyncClient(
            base_url=url,
            headers={"Accept-Encoding": "identity", **headers},
            event_hooks={"response": [measure]},
            timeout=httpx.Timeout(None, connect=rhythm.answer, write=60.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=model.slots + 2),
            verify=url.startswith("https:"),
            trust_env=self._child is None,  # a proxy is no way to a child on this machine
        )

    async def begin(self, say: Callable[[str], None]) -> None:
        """Wait until it is healthy, and let it generate; `say` hears why it is not ready yet.

        Raises DeadError, or EngineError with the server's words if it lives but does not do what we need.
        """
        while True:
            reason = self._ended() or await self._look()
            if reason is None:
                try:
                    self.dialect = await find_dialect(self.client, self._model.served_model)
                    if TOKEN_IDS in self.dialect.extras:  # vLLM's and SGLang's sign; others' lists may be costly
                        self.context_tokens = await self._context()
                    await self._measure()
                    return
                except (NotReadyError, httpx.HTTPError) as error:
                    reason = f"it is not ready: {error!r}"
            if dead := self._ended():
                raise DeadError(dead)
            say(reason)
            await asyncio.sleep(min(0.25, self._rhythm.look))

    async def watch(self, tokens: Callable[[], int]) -> str:
        """Until it dies: how it did. `tokens` grows with each token of any job: a server that makes some lives."""
        looks = asyncio.create_task(self._watch_answers(tokens))
        try:
            while not looks.done():
                if dead := self._ended():
                    return dead
                await asyncio.wait({looks}, timeout=min(0.1, self._rhythm.look))
            return looks.result()
        finally:
            looks.cancel()

    async def find_dead(self) -> str | None:
        """A connection broke: why it is dead, if it is. A child that dies is given a second to be seen dead."""
        for _ in range(50):
            if self._child is None or self._ended():
                break
            await asyncio.sleep(0.02)
        for _ in range(self._rhythm.unwell):
            reason = self._ended() or await self._look()
            if reason is None:
                return None
            if isinstance(reason, _Unreachable) or self._ended():
                self._dead = self._ended() or reason
                return self._dead
            await asyncio.sleep(min(0.5, self._rhythm.look))  # it may be dying: silence is no proof yet
        return None

    async def stop(self) -> None:
        """Close the connections; stop the child and all it has started."""
        if self._child:
            self._child.ask_to_stop()
        await self.client.aclose()
        if self._child:
            await asyncio.to_thread(self._child.stop)

    def _ended(self) -> str | None:
        return self._dead or (self._child.poll() if self._child else None)

    async def _watch_answers(self, tokens: Callable[[], int]) -> str:
        loop = asyncio.get_running_loop()
        seen, well_at, unwell = tokens(), loop.time(), 0
        while True:
            await asyncio.sleep(self._rhythm.look)
            reason = await self._look()
            if reason is None:
                await self._measure()
            if reason is None or tokens() != seen:
                seen, well_at, unwell = tokens(), loop.time(), 0
                continue
            unwell = 0 if isinstance(reason, _Silence) else unwell + 1
            if unwell >= self._rhythm.unwell or loop.time() - well_at >= self._rhythm.hang:
                return str(reason)

    async def _look(self) -> str | None:
        """None if it is well, else why not, which is a _Silence if it takes its time."""
        try:
            async with asyncio.timeout(self._rhythm.answer):
                answer = await self.client.get(self._health_path)
        except (TimeoutError, httpx.TimeoutException):
            return _Silence(f"the server does not answer {self._health_path} within {self._rhythm.answer:g} s")
        except httpx.HTTPError as error:
            return _Unreachable(f"the server cannot be reached: {bounded(repr(error))}")
        except Exception as error:
            return f"the server's {self._health_path} cannot be read: {bounded(repr(error))}"
        if answer.status_code in (404, 405) and self._health_path == "/health":
            self._health_path = "/v1/models"
            return await self._look()
        if answer.is_success:
            return None
        words = bounded(answer.content.decode(errors="replace"))
        return f"the server's {self._health_path} answers {answer.status_code}: {words}"

    async def _measure(self) -> None:
        """Read its metrics, if it has any; a look that fails tells nothing."""
        if not self._has_metrics:
            return
        try:
            async with asyncio.timeout(self._rhythm.answer):
                answer = await self.client.get("/metrics")
        except Exception:
            self.full = ""
            return
        self._has_metrics = answer.is_success
        page = answer.content.decode(errors="replace") if answer.is_success else ""
        self.load = parse_metrics(page)
        self.full = self._fullness.note(self.load)

    async def _context(self) -> int | None:
        """The longest context it takes, where its list of models says so."""
        try:
            async with asyncio.timeout(self._rhythm.answer):
                answer = await self.client.get("/v1/models")
            models = {model["id"]: model for model in answer.json()["data"]}
            length = models[self.dialect.model]["max_model_len"]
        except (TimeoutError, httpx.HTTPError, ValueError, KeyError, TypeError, NowservingError):
            return None
        return length if isinstance(length, int) and length > 0 else None


class _Unreachable(str):
    """A reason that, where a connection has just broken, proves its death; others are for `watch` to weigh."""


class _Silence(str):
    """A reason that may pass: a machine that does other things besides answers late."""


def authorization(model: Model, worker: Mapping[str, str]) -> dict[str, str]:
    """The header with the API key that the catalog names. Raises EngineError if there is none."""
    if model.api_key_env is None:
        return {}
    key = worker.get(model.api_key_env, "")
    if not key:
        raise EngineError(f"api_key_env names {model.api_key_env}, which the worker's environment does not have")
    return {"Authorization": f"Bearer {key}"}
