"""One job on a server: its request, the waits, and how each thing that can go wrong ends it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from nowserving.errors import EngineError, EngineLostError, NowservingError
from workers.engines.engine import Ended, FinishReason, Prepared, Sink
from workers.engines.openai_chunk import DONE, parse_chunk, refusal
from workers.engines.openai_dialect import JSON, Dialect, prompt_tokens
from workers.engines.openai_meter import Meter
from workers.engines.openai_text import Transcript

FAILED = ("abort", "error")
"""Finish reasons that are none: the server has given up on the job."""
BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
LONGEST_PAUSE_SECONDS = 10.0
BODY_BYTES = 16_384
"""As much of a refusal's body as is read."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds a job waits for its server, each wait also bounded by the job's own timeout.

    `first`: from the request to its first token, long, since servers have queues of their own. `stall`: between two
    tokens. `busy`: while it answers 429 or 503. `usage`: for the counts, once the text has ended.
    """

    first: float = 1800.0
    stall: float = 120.0
    busy: float = 60.0
    usage: float = 1.0


class _BusyError(Exception):
    """The server takes no job now."""

    def __init__(self, error: EngineError, after_seconds: float | None) -> None:
        super().__init__(error.message)
        self.error, self.after_seconds = error, after_seconds


class OpenAIStream:
    """Made in the engine's loop, run once. `lost` says, when a connection breaks, whether the server has gone;
    `busy` hears that it takes no more jobs now.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        dialect: Dialect,
        prepared: Prepared,
        sink: Sink,
        lost: Callable[[], Awaitable[bool]],
        busy: Callable[[], None],
        patience: Patience,
    ) -> None:
        self._client, self._dialect, self._prompt, self._sink = client, dialect, prepared.prompt, sink
        self.job_id = prepared.prompt.job_id
        self._lost, self._busy, self._patience = lost, busy, patience
        self._deadline = asyncio.get_running_loop().time() + prepared.prompt.timeout_seconds
        self._begun = False
        self.transcript = Transcript(prepared.prompt, sink)

    async def run(self) -> Ended:
        """Bring it to its end, whatever the server does. Raises CancelledError alone."""
        transcript = self.transcript
        try:
            async with asyncio.timeout_at(self._deadline):
                if self._prompt.made_text:
                    await self._count()
                if transcript.left > 0:
                    await self._ask_patiently()
            return transcript.close()
        except (NowservingError, TimeoutError, httpx.HTTPError, httpx.StreamError, SSEError) as error:
            if transcript.finish is not None:
                return transcript.close()  # only its counts are missing
            if isinstance(error, NowservingError):
                return transcript.end(FinishReason.ERROR, error)
            if not isinstance(error, TimeoutError):
                return transcript.end(FinishReason.ERROR, await self._broken(error))
            if asyncio.get_running_loop().time() >= self._deadline:
                return transcript.end(FinishReason.TIMEOUT)
            return transcript.end(FinishReason.ERROR, EngineError(self._stalled()))

    async def _count(self) -> None:
        """How many tokens the text made before is: so the limit and the usage are exact over all attempts."""
        try:
            alone, together = await asyncio.gather(
                prompt_tokens(self._client, self._dialect, self._prompt.input),
                prompt_tokens(self._client, self._dialect, self._prompt.input, self._prompt.made_text),
            )
        except NowservingError:
            return  # then what was streamed is all that is known
        if alone is not None and together is not None:
            self.transcript.resume(alone, max(0, together - alone))

    async def _ask_patiently(self) -> None:
        """Ask until the server takes it."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._patience.busy, 0.25
        while True:
            try:
                return await self._ask()
            except _BusyError as busy:
                self._busy()
                wait = pause if busy.after_seconds is None else max(pause, busy.after_seconds)
                wait = min(LONGEST_PAUSE_SECONDS, wait)
                if loop.time() + wait > until:
                    raise busy.error from None
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))
            pause *= 2

    async def _ask(self) -> None:
        prompt, transcript = self._prompt, self.transcript
        path, body = self._dialect.request(
            prompt.input, prompt.parameters, prompt.made_text, max_tokens=transcript.left
        )
        loop = asyncio.get_running_loop()
        async with (
            asyncio.timeout(self._patience.first) as limit,
            self._client.stream(
                "POST", path, content=json.dumps(body), headers=JSON, extensions={"trace": self._trace}
            ) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise await self._refusal(response)
            async for event in EventSource(response).aiter_sse():
                if isinstance(response.stream, Meter):
                    response.stream.begin()
                if event.data == DONE:
                    return
                new, over = transcript.new, transcript.finish is not None
                self._take(event.data)
                if transcript.finish is not None and not over:
                    limit.reschedule(loop.time() + self._patience.usage)
                elif transcript.new > new:
                    limit.reschedule(loop.time() + self._patience.stall)
        if transcript.finish is None:
            raise httpx.RemoteProtocolError("the stream ended before the text")

    def _take(self, data: str) -> None:
        chunk = parse_chunk(data)
        if chunk.finish in FAILED:
            raise EngineError(f"the server gave up on the job: {chunk.finish}")
        self.transcript.take(chunk)

    async def _trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore tells when the connection stands and the request goes out: not before that can the job do harm."""
        if event == "http11.send_request_headers.started" and not self._begun:
            self._begun = True
            self._sink.begun(self.transcript.prompt_tokens)

    async def _refusal(self, response: httpx.Response) -> Exception:
        body = b""
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) >= BODY_BYTES:
                break
        error = refusal(response.status_code, body[:BODY_BYTES].decode(errors="replace"))
        if response.status_code in BUSY:
            after = response.headers.get("retry-after", "")
            return _BusyError(EngineError(error.message), float(after) if after.isdecimal() else None)
        return error

    async def _broken(self, error: Exception) -> NowservingError:
        words = f"{type(error).__name__}: {error}".removesuffix(": ")
        if await self._lost():
            return EngineLostError(f"the server has gone ({words})")
        return EngineError(f"the server's answer broke off ({words})")

    def _stalled(self) -> str:
        if self.transcript.new:
            return f"the server made no token for {self._patience.stall:g} s"
        return f"the server made no first token in {self._patience.first:g} s"
