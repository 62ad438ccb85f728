"""A calm place for one measured scene: Redis, the API, and workers as they are called for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from nowserving.client import Client
from nowserving.job import Status, new_job_id
from nowserving.store import Store, connect
from tests.api_process import ApiProcess
from tests.chaos import witness
from tests.chaos.sight import Sight
from tests.chaos.witness import WitnessedWorker
from tests.redis_server import RedisServer
from tests.worker_process import MODEL, look, noop, ready


class Stage:
    """All is started on entry and killed at the end. `token_seconds` is the pace of the noop engine."""

    def __init__(self, folder: Path, *, slots: int, token_seconds: float, **settings: object) -> None:
        self._folder, self._settings = folder, settings
        self._catalog = noop(slots, f"noop:100000@{token_seconds}")
        self._parts = ExitStack()
        self._readers = ThreadPoolExecutor(64, "reader")
        self.workers: list[WitnessedWorker] = []

    def __enter__(self) -> Self:
        data = self._folder / f"redis-{new_job_id()}"
        data.mkdir()
        self._redis = RedisServer(data)
        self._parts.callback(self._redis.kill)
        self._redis.start()
        self._api = ApiProcess(self._redis.url, self._folder, self._catalog, **self._settings)
        self._parts.enter_context(self._api)
        self.store = Store(connect(self._redis.url))
        self._parts.callback(self.store.close)
        self.client = Client(self._api.url)
        self._parts.callback(self.client.close)
        self._parts.callback(self._readers.shutdown)
        self.wait(lambda: self.client.health()["status"], 30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._parts.__exit__(kind, error, at)

    def start_worker(self) -> WitnessedWorker:
        """Start one more and wait until it takes jobs."""
        worker = WitnessedWorker(self._redis.url, self._folder, self._catalog, **self._settings)
        self.workers.append(worker)
        self._parts.callback(worker.kill)
        worker.start()
        self.wait(lambda: ready(self.store, sum(worker.alive for worker in self.workers)), 30)
        return worker

    def submit(self, jobs: int, tokens: int) -> list[str]:
        """Submit so many jobs; their ids."""
        return [self.client.submit(MODEL, prompt="hello", max_new_tokens=tokens).id for _ in range(jobs)]

    def follow(self, job_id: str) -> Future[Sight]:
        """Read a job's events on a thread of their own, to the end."""

        def read() -> Sight:
            sight = Sight()
            for event in self.client.stream(job_id):
                sight.see(event.type, event.data)
            return sight

        return self._readers.submit(read)

    def wait_until_making(self, ids: Sequence[str]) -> None:
        """Wait until each of these jobs runs and has made a token."""
        self.wait(lambda: all(self._makes(job_id) for job_id in ids), 60)

    def wait_until_done(self, ids: Sequence[str]) -> None:
        """Wait until each of these has succeeded."""
        self.wait(lambda: all(look(self.store, job_id).status is Status.SUCCEEDED for job_id in ids), 120)

    def acts(self) -> list[witness.Act]:
        """What the claims of all workers have done so far."""
        return witness.read(self.store.client)

    def wait(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait until it is so."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it does not become so: " + "\n".join(w.output() for w in self.workers)
            time.sleep(0.01)

    def _makes(self, job_id: str) -> bool:
        job = look(self.store, job_id)
        return job.status is Status.RUNNING and job.generated > 0
