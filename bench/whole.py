"""The same chats through the whole stack: HTTP, Redis, a worker process and its engine, and each job's events read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Self

import uvloop

from bench.chat import TIMEOUT_SECONDS, Chat
from bench.connection import Connection, connect
from bench.cpu import Cpu
from bench.dialect import NOWSERVING
from bench.errors import BenchError
from bench.follow import follow
from bench.process import wait_until
from bench.run import Run
from bench.stacks import Nowserving
from nowserving.client import Client

MODEL = "bench"
CONNECTIONS = 32
"""Clients that submit at once; each job's events are then read on a connection of its own."""
LOADED_WITHIN_SECONDS = 900


class WholeStack(Nowserving):
    """A Way that is a stack: started on entry, with the worker ready."""

    name = "the whole stack"

    def __init__(self, entry: str, **settings: object) -> None:
        """`entry` is the model's in the catalog; settings are the worker's and the API's, without their prefix."""
        super().__init__(MODEL, entry, **settings)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            wait_until(self._ready, "loaded", LOADED_WITHIN_SECONDS, self.processes)
        except BaseException:
            self.parts.close()
            raise
        return self

    @property
    def url(self) -> str:
        """Of its API."""
        return f"http://127.0.0.1:{self.port}"

    def answer(self, chats: Sequence[Chat], new_tokens: int) -> Run:
        """See Way."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._answer_all(chats, new_tokens))

    def _ready(self) -> bool:
        with Client(self.url) as client:
            return any(worker["state"] == "ready" for worker in client.workers())

    async def _answer_all(self, chats: Sequence[Chat], new_tokens: int) -> Run:
        connections = await connect(self.port, min(len(chats), CONNECTIONS))
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in connections:
            free.put_nowait(connection)
        began, cpu = time.perf_counter(), Cpu.of(self)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(free, chat, new_tokens, began)) for chat in chats]
        except TimeoutError:
            raise BenchError(f"{self.name}: {len(chats)} jobs took more than {TIMEOUT_SECONDS:g} s") from None
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            for connection in connections:
                connection.close()
        seconds, cpu_seconds = time.perf_counter() - began, Cpu.of(self).total - cpu.total
        answers = [task.result() for task in tasks]
        return Run(seconds, [times for times, _ in answers], [text for _, text in answers], cpu_seconds, "seen")

    async def _answer(
        self, free: asyncio.Queue[Connection], chat: Chat, new_tokens: int, began: float
    ) -> tuple[list[float], str]:
        """When each token was seen, and the text."""
        body = {
            "model": MODEL,
            "input": {"messages": [{"role": "user", "content": chat.content}]},
            "parameters": {"max_new_tokens": new_tokens, "ignore_eos": True},
            "timeout_seconds": TIMEOUT_SECONDS,
        }
        connection = await free.get()
        job_id = NOWSERVING.job_id(await connection.post(NOWSERVING.submit_path, json.dumps(body).encode()))
        free.put_nowait(connection)
        token_seconds: list[float] = []
        texts, end = [], ""
        async for kind, data in follow(self.port, job_id):
            if kind == "token":
                token_seconds += [time.perf_counter() - began] * len(data["ids"])
                texts.append(data["text"])
            end = kind
        if end != "succeeded" or len(token_seconds) != new_tokens:
            raise BenchError(f"{job_id} ended with {end!r} after {len(token_seconds)} of {new_tokens} tokens")
        return token_seconds, "".join(texts)
