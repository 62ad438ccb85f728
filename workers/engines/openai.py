"""The engine of servers that speak OpenAI's protocol: vLLM, SGLang, `transformers serve`, llama.cpp's, and others."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from nowserving.catalog import Model
from nowserving.errors import EngineError, EngineLostError, NowservingError, TooLargeError
from nowserving.job import tokens_at_most
from workers.engines.engine import Capacity, Ended, FinishReason, Health, Prepared, Prompt, Sink
from workers.engines.openai_server import Rhythm
from workers.engines.openai_stream import OpenAIStream, Patience
from workers.engines.openai_upkeep import Upkeep

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.25
CONTEXT_TOKENS = 1_000_000
"""Where the server does not say how long a job may be, its own refusal does."""


class OpenAIEngine:
    """One asyncio loop in one thread: a task a job, and one that keeps the server.

    The memory is the server's own, so a "byte" of `cost` and of the budget is a token of its KV cache, as far as its
    metrics say how many it holds; where they do not, the slots alone decide.
    """

    resumes = True
    resumes_text = True
    memory_elsewhere = True

    def __init__(
        self,
        model: Model,
        worker_environment: Mapping[str, str] = os.environ,
        *,
        rhythm: Rhythm | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Raises EngineError if the worker's environment has not what the catalog names."""
        self._slots, self._patience = model.slots, patience or Patience()
        self._upkeep = Upkeep(
            model, worker_environment, rhythm or Rhythm(), self._ready, self._lose, self._count_tokens
        )
        self._loop = asyncio.new_event_loop()
        self._running: dict[OpenAIStream, asyncio.Task[Ended]] = {}
        self._lost: dict[OpenAIStream, str] = {}
        """Those that are being ended because the server died, with the reason."""
        self._tokens = self._steps = 0
        self._door = threading.Lock()
        self._open = False
        """Whether the loop still takes calls; guarded by the door, so that none is taken and not made."""
        self._closing = asyncio.Event()
        self._started = threading.Event()
        self._failure: NowservingError | None = None
        self._capacity: Capacity | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> Capacity:
        """See Engine."""
        self._open = True
        self._thread.start()
        self._started.wait()
        if self._failure:
            raise self._failure
        return self.capacity()

    def close(self) -> None:
        """See Engine. The server is stopped too, if it is ours."""
        self._call(self._closing.set)
        if self._thread.is_alive():
            self._thread.join()

    def capacity(self) -> Capacity:
        """See Engine. Raises EngineError before it is started."""
        if self._capacity is None:
            raise EngineError("the engine is not started")
        return self._capacity

    def cost(self, tokens: Sequence[int]) -> int:
        """See Engine: tokens, each job's at most the context."""
        context = self.capacity().context_tokens
        return sum(min(bound, context) for bound in tokens)

    def prepare(self, prompt: Prompt) -> Prepared:
        """See Engine. Only the server can count: the queue's bound stays, and what is too large the server refuses."""
        dialect, context = self._upkeep.dialect, self.capacity().context_tokens
        dialect.check(prompt.input)
        new = prompt.parameters.max_new_tokens
        if new >= context:
            raise TooLargeError(f"it may make {new} new tokens, the context has {context} with the prompt")
        if not (prompt.made_text and dialect.resumes(prompt.input)):
            prompt = replace(prompt, made=(), made_text="")
        return Prepared(prompt, (), min(tokens_at_most(prompt.input, new), context))

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """See Engine."""
        if self._upkeep.over or not self._call(partial(self._begin, prepared, sink)):
            raise EngineError(self._upkeep.over or "the engine is not running")

    def cancel(self, job_id: str) -> None:
        """See Engine. The connection is closed, which is what makes a server stop."""
        self._call(partial(self._cancel, job_id))

    def health(self) -> Health:
        """See Engine. While its server is away, so is it."""
        alive = self._thread.is_alive() and not self._upkeep.over
        reason = "" if alive else self._upkeep.over or "the engine is not running"
        return Health(alive, self._steps, reason, self._upkeep.full(), self._upkeep.down)

    def _call(self, do: Callable[[], object]) -> bool:
        """Have it done in the loop; False if that turns no more."""
        with self._door:
            if self._open:
                self._loop.call_soon_threadsafe(do)
            return self._open

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        except Exception as error:
            log.exception("the engine's loop failed")
            self._upkeep.over = f"its loop failed: {error!r}"
        finally:
            self._ready(EngineError(self._upkeep.over or "it was closed"))
            with self._door:
                self._open = False
            self._loop.run_until_complete(asyncio.sleep(0))  # what came in just before
            self._loop.close()

    async def _main(self) -> None:
        keep = asyncio.create_task(self._upkeep.keep())
        closing = asyncio.create_task(self._closing.wait())
        while not (keep.done() or closing.done()):
            self._steps += 1
            await asyncio.wait({keep, closing}, timeout=BEAT_SECONDS)
        closing.cancel()
        self._closing.set()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        keep.cancel()
        with suppress(asyncio.CancelledError):
            await keep

    def _begin(self, prepared: Prepared, sink: Sink) -> None:
        server, down = self._upkeep.server, self._upkeep.down
        if self._closing.is_set():
            _tell(sink, Ended(FinishReason.CANCELED, "", 0, len(prepared.prompt.made)))
        elif down or server is None:
            error = EngineLostError(down)
            _tell(sink, Ended(FinishReason.ERROR, "", 0, len(prepared.prompt.made), error))
        else:
            upkeep = self._upkeep
            stream = OpenAIStream(
                server.client, server.dialect, prepared, sink, upkeep.gone, upkeep.note_busy, self._patience
            )
            task = self._loop.create_task(stream.run())
            self._running[stream] = task
            task.add_done_callback(partial(self._ended, stream, sink))

    def _cancel(self, job_id: str) -> None:
        # Those that run now: one begun later is another attempt's.
        for stream, task in self._running.items():
            if stream.job_id == job_id:
                task.cancel()

    def _lose(self, reason: str) -> None:
        """The server has died: so have all its jobs."""
        for stream, task in self._running.items():
            self._lost[stream] = reason
            task.cancel()

    def _ended(self, stream: OpenAIStream, sink: Sink, task: asyncio.Task[Ended]) -> None:
        """The one place where a job's end is told, also of one that was canceled before its task began."""
        del self._running[stream]
        self._tokens += stream.transcript.new
        lost, transcript = self._lost.pop(stream, None), stream.transcript
        if not task.cancelled():
            error = task.exception()
            if error is None:
                ended = task.result()
            else:
                log.error("%s failed", stream.job_id, exc_info=error)
                failure = EngineError(f"the engine failed on this job: {error!r}")
                ended = transcript.end(FinishReason.ERROR, failure)
        elif lost is None:
            ended = transcript.end(FinishReason.CANCELED)
        elif transcript.finish is not None:
            ended = transcript.close()
        else:
            ended = transcript.end(FinishReason.ERROR, EngineLostError(lost))
        _tell(sink, ended)

    def _count_tokens(self) -> int:
        return self._tokens + sum(stream.transcript.new for stream in self._running)

    def _ready(self, failure: NowservingError | None) -> None:
        """The server serves for the first time, or never will."""
        if not self._started.is_set():
            self._failure = failure
            server = self._upkeep.server
            if failure is None and server is not None:
                held, context = server.load.capacity_tokens, server.context_tokens or CONTEXT_TOKENS
                context = min(context, held or context)
                self._capacity = Capacity(self._slots, context, held or self._slots * context)
            self._started.set()


def _tell(sink: Sink, ended: Ended) -> None:
    try:
        sink.ended(ended)
    except Exception:
        log.exception("a sink failed")
