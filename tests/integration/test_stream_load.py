"""Many readers at once: cut off and resumed while a worker dies; slow ones; late ones."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from nowserving import keys
from nowserving.job import Status
from nowserving.store import Store
from tests.api_process import ApiProcess
from tests.fake_worker import FakeWorker
from tests.follower import Follower
from tests.worker_process import MODEL, WorkerProcess, look, noop, ready

Eventually = Callable[..., None]

JOBS, READERS_A_JOB, CUTS, TOKENS = 20, 5, 3, 120
SOURCE = noop(slots=JOBS, source=f"noop:{TOKENS}@0.05")
SLOW_READERS = 20
EVENTS, EVENT_BYTES = 3000, 4000
"""A story of 12 MB; the system takes in some 3 MB of it for a connection of which nobody reads."""
BYTES_A_READER = 500 * EVENT_BYTES
"""What the API may keep for one: the events of a read."""


@pytest.fixture
def api_process(redis_url: str, tmp_path: Path, eventually: Eventually) -> Iterator[ApiProcess]:
    with ApiProcess(redis_url, tmp_path, SOURCE, lease_seconds=2) as api:
        eventually(lambda: serves(api), 30)
        yield api


def serves(api: ApiProcess) -> bool:
    try:
        return httpx.get(f"{api.url}/health/live", trust_env=False).is_success
    except httpx.TransportError:
        return False


def submit(api: ApiProcess, jobs: int) -> list[str]:
    body = {"model": MODEL, "input": {"prompt": "hello"}, "parameters": {"max_new_tokens": TOKENS}}
    with httpx.Client(base_url=api.url, trust_env=False) as http:
        return [str(http.post("/v1/jobs", json=body).json()["id"]) for _ in range(jobs)]


def test_a_hundred_readers_cut_off_and_resumed_see_each_text_once_though_a_worker_dies(
    live: Store, redis_url: str, api_process: ApiProcess, tmp_path: Path, eventually: Eventually
) -> None:
    points = random.Random(7)
    ids = submit(api_process, JOBS)
    followers = [
        Follower(api_process.port, job_id, points.sample(range(TOKENS), CUTS))
        for job_id in ids
        for _ in range(READERS_A_JOB)
    ]

    def change_worker() -> None:
        eventually(lambda: all(look(live, job_id).generated > 0 for job_id in ids), 30)
        with second:
            eventually(lambda: ready(live, 2), 30)
            first.kill()
            eventually(lambda: all(look(live, job_id).status is Status.SUCCEEDED for job_id in ids), 40)

    first, second = (WorkerProcess(redis_url, tmp_path, SOURCE, lease_seconds=2) for _ in range(2))
    with first:
        asyncio.run(within(90, *(one.run() for one in followers), asyncio.to_thread(change_worker)))
    assert sum(look(live, job_id).takes == 2 for job_id in ids) >= JOBS / 2, "the kill has hit too few running jobs"
    for one in followers:
        output = look(live, one.job_id).output
        assert output is not None
        assert (one.text, one.tokens) == (output["text"], [*range(TOKENS)])
        assert [end["output"] for end in one.ends] == [output]
        assert one.connections == 1 + CUTS
    # Who comes after the end gets the whole story.
    late = [Follower(api_process.port, job_id) for job_id in ids]
    asyncio.run(within(20, *(one.run() for one in late)))
    assert [(one.text, one.tokens) for one in late] == [(one.text, one.tokens) for one in followers[::READERS_A_JOB]]


def test_slow_readers_take_no_more_memory_than_a_read_each_and_keep_nobody_waiting(
    live: Store, api_process: ApiProcess, worker: FakeWorker, eventually: Eventually
) -> None:
    [job_id] = submit(api_process, 1)
    assert worker.begin() == job_id
    text = "x" * (EVENT_BYTES - 6)
    with live.client.pipeline(transaction=False) as pipeline:
        for i in range(EVENTS):
            fields = {"type": "token", "at": "1", "index": i, "ids": i, "text": f"{i:05} {text}"}
            pipeline.xadd(keys.events(job_id), fields)  # type: ignore[arg-type]
        pipeline.execute()
    worker.finish(job_id)
    process = psutil.Process(api_process.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(SLOW_READERS):
            stack.enter_context(ask(api_process.port, job_id))
        quick = Follower(api_process.port, job_id)
        asyncio.run(within(30, quick.run()))
        assert quick.tokens == [*range(EVENTS)]
        most, until = 0, time.monotonic() + 2
        while time.monotonic() < until:
            most = max(most, process.memory_info().rss)
            time.sleep(0.02)
    assert most - before < SLOW_READERS * BYTES_A_READER


def ask(port: int, job_id: str) -> socket.socket:
    """A connection that asks for a job's events and reads nothing."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", port))
    slow.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return slow


async def within(seconds: float, *parts: Coroutine[None, None, None]) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.gather(*parts)
