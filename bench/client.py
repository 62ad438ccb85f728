"""Clients of a stack: the same ones for every stack, each on a connection of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

from bench.connection import Connection, connect
from bench.errors import BenchError
from bench.stack import Stack

PATIENCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Way:
    """How a client learns that its job is done: by waiting for the answer, or by looking every so often."""

    wait: bool
    """Where a stack can answer when the job is done, let it; elsewhere look as said below."""
    poll_seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """What a number of clients did together."""

    seconds: float
    latencies_ms: Sequence[float]
    job_ids: Sequence[str] = ()

    @property
    def per_second(self) -> float:
        """Jobs a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """The latency that so many percent of the jobs stayed under."""
        return quantiles(self.latencies_ms, n=100, method="inclusive")[percent - 1]


async def submit_all(stack: Stack, clients: int, jobs: int) -> Load:
    """Submit so many jobs, each client its next as soon as the last was accepted."""
    dialect = stack.dialect
    job_ids: list[str] = []

    async def submit(connection: Connection) -> None:
        answer = await connection.post(dialect.submit_path, dialect.submit_body)
        job_ids.append(dialect.job_id(answer))

    return await _repeat(submit, stack, clients, jobs, job_ids)


async def see_all_done(stack: Stack, clients: int, jobs: int, way: Way) -> Load:
    """Have so many jobs done, each client submitting its next as soon as it has seen its last done."""
    dialect = stack.dialect

    async def see_done(connection: Connection) -> None:
        header, query = (dialect.wait_header, dialect.wait_query) if way.wait else ("", "")
        pause_seconds = 0.0 if query else way.poll_seconds
        answer = await connection.post(dialect.submit_path, dialect.submit_body, header)
        if header and dialect.done(answer):
            return
        path = dialect.look_path.format(dialect.job_id(answer)) + query
        while True:
            await asyncio.sleep(pause_seconds)
            if dialect.done(await connection.get(path)):
                return

    return await _repeat(see_done, stack, clients, jobs, [])


async def _repeat(
    deed: Callable[[Connection], Awaitable[None]], stack: Stack, clients: int, times: int, job_ids: Sequence[str]
) -> Load:
    """Do one thing so many times, shared among the clients, each doing its next when its last is done.

    Connections are opened before the clock starts: uvicorn closes idle ones after 5 s, so none are kept for later.
    """
    latencies_ms: list[float] = []
    turns = iter(range(times))

    async def client(connection: Connection) -> None:
        for _ in turns:
            began = time.perf_counter()
            await deed(connection)
            latencies_ms.append((time.perf_counter() - began) * 1000)

    connections = await connect(stack.port, clients)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(client(connection))
    except TimeoutError:
        raise BenchError(f"{stack.name}: {len(latencies_ms)} of {times} jobs after {PATIENCE_SECONDS} s") from None
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for connection in connections:
            connection.close()
    return Load(time.perf_counter() - began, latencies_ms, job_ids)
