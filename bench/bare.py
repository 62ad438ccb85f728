"""An engine of the project with nothing around it as a way to answer chats: the default one, and the `openai` one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

from pydantic import ValidationError

from bench.chat import Chat
from bench.errors import BenchError
from bench.run import Run
from nowserving.catalog import Model
from nowserving.errors import NowservingError
from workers.engines.engine import Ended, Engine, FinishReason
from workers.engines.load import make_engine

START_SECONDS = 30.0
"""A server has so long to answer; it should run already."""


class BareEngine:
    """The default engine, started, with no queue, worker or API before it."""

    name: ClassVar[str] = "engine"
    exact: ClassVar[bool] = True

    def __init__(self, engine: Engine) -> None:
        self._engine, self._ignore_eos = engine, True

    def answer(self, chats: Sequence[Chat], new_tokens: int) -> Run:
        """See Way."""
        began, cpu = time.perf_counter(), time.process_time()
        sinks = []
        for number, chat in enumerate(chats):
            sinks.append(_Sink(began))
            prompt = chat.prompt(f"job-{number}", new_tokens, self._ignore_eos)
            self._engine.submit(self._engine.prepare(prompt), sinks[-1])
        ends = [sink.wait() for sink in sinks]
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        for end in ends:
            finished = end.reason is FinishReason.LENGTH and end.completion_tokens == new_tokens
            if not finished and (self.exact or end.error or not end.completion_tokens):
                raise BenchError(f"a job ended after {end.completion_tokens} tokens: {end.reason}, {end.error}")
        return Run(seconds, [sink.token_seconds for sink in sinks], [end.text for end in ends], cpu_seconds)


class OpenAIServer(BareEngine):
    """An OpenAI-compatible server by the `openai` engine, with no queue before it. It may end a text early."""

    name = "openai engine"
    exact = False

    def __init__(self, url: str, served_model: str | None, slots: int) -> None:
        """Raises BenchError if there is no such engine in this checkout."""
        given = {"url": url, "served_model": served_model, "slots": slots, "start_timeout_seconds": START_SECONDS}
        try:
            model = Model.model_validate({"name": "server", "engine": "openai", **given})
        except ValidationError as error:
            raise BenchError(f"no openai engine for {url}: {error}") from None
        super().__init__(make_engine(model, Path()))

    def answer(self, chats: Sequence[Chat], new_tokens: int) -> Run:
        """See Way. What CPU time it took is not known: the server's is not ours to see.

        A server that refuses to ignore the end of a text is asked without, from its warm-up on.
        """
        try:
            run = super().answer(chats, new_tokens)
        except BenchError:
            if not self._ignore_eos:
                raise
            self._ignore_eos = False
            run = super().answer(chats, new_tokens)
        return replace(run, cpu_seconds=0.0)

    def __enter__(self) -> Self:
        """Raises BenchError if the server does not serve."""
        try:
            self._engine.start()
        except NowservingError as error:
            raise BenchError(f"the openai engine: {error.message}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()


class _Sink:
    def __init__(self, began: float) -> None:
        self.token_seconds: list[float] = []
        self._began = began
        self._end: Ended | None = None
        self._over = threading.Event()

    def begun(self, prompt_tokens: int) -> None:
        """See Sink."""

    def progress(self, done: int, total: int) -> None:
        """See Sink."""

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        """See Sink."""
        self.token_seconds += [time.perf_counter() - self._began] * len(ids)

    def ended(self, end: Ended) -> None:
        """See Sink."""
        self._end = end
        self._over.set()

    def wait(self) -> Ended:
        self._over.wait()
        assert self._end is not None
        return self._end
