"""A real Celery worker process for tests, and the jobs to give it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from nowserving import keys, verb
from nowserving.job import Job, Submission, fields_of, new_job_id
from nowserving.store import Store

ROOT = Path(__file__).parent.parent
MODEL = "noop"


class WorkerProcess:
    """`celery -A workers.app worker -Q …` as a child process of its own group."""

    def __init__(self, redis_url: str, folder: Path, catalog: str, **settings: object) -> None:
        self._folder = folder
        models_file = folder / f"models-{new_job_id()}.toml"
        models_file.write_text(catalog)
        self._env: dict[str, str] = {
            **os.environ,
            "NOWSERVING_REDIS_URL": redis_url,
            "NOWSERVING_MODELS_FILE": str(models_file),
            "PYTHONPATH": str(ROOT),
            **{f"NOWSERVING_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / f"worker-{new_job_id()}.log"

    def start(self) -> Self:
        """Start it; it is not ready yet."""
        name = f"{MODEL}-{self.log.stem}@test"
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker"]
        options = ["-Q", keys.queue(MODEL), "-n", name, "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options], env=self._env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def wait(self, seconds: float) -> int:
        """Wait for its end; the exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def output(self) -> str:
        """What it has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        if kind is not None:
            print(f"--- {self.log.name}\n{self.output()}")


def noop(slots: int = 4, source: str = "") -> str:
    """A catalog of one noop model."""
    return f'[models.{MODEL}]\nengine = "noop"\nslots = {slots}\nsource = "{source}"\n'


def enqueue(store: Store, prompt: str = "hello", **body: object) -> str:
    """Put a job into the queue; its id."""
    submission = Submission.model_validate({"model": MODEL, "input": {"prompt": prompt}, **body})
    return store.run(verb.enqueue(new_job_id(), MODEL, fields_of(submission, 1), max_depth=100_000)).job_id


def look(store: Store, job_id: str) -> Job:
    """The job now."""
    return store.run(verb.look(job_id)).job


def statuses(store: Store, ids: list[str]) -> Mapping[str, int]:
    """How many of the jobs have each status, at one instant."""
    pipeline = store.client.pipeline(transaction=True)
    for job_id in ids:
        pipeline.hget(keys.JOB + job_id, "status")
    counts: dict[str, int] = {}
    for status in pipeline.execute():
        counts[str(status)] = counts.get(str(status), 0) + 1
    return counts


def workers(store: Store) -> list[dict[str, object]]:
    """The live workers' own descriptions."""
    return store.run(verb.workers([MODEL]))


def ready(store: Store, count: int = 1) -> bool:
    """Whether so many workers are ready to take jobs."""
    return sum(worker["state"] == "ready" for worker in workers(store)) >= count
