"""A real Celery worker process for tests, and the jobs to give it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from nowserving import keys, verb
from nowserving.job import Job, Submission, fields_of, new_job_id
from nowserving.store import Store
from tests.child_process import ROOT as ROOT
from tests.child_process import ChildProcess

MODEL = "noop"


class WorkerProcess(ChildProcess):
    """`celery -A workers.app worker -Q …` as a child process of its own group."""

    app = "workers.app"
    model = name = MODEL

    def __init__(self, redis_url: str, folder: Path, catalog: str, **settings: object) -> None:
        models_file = folder / f"models-{new_job_id()}.toml"
        models_file.write_text(catalog)
        env = {
            "NOWSERVING_REDIS_URL": redis_url,
            "NOWSERVING_MODELS_FILE": str(models_file),
            **{f"NOWSERVING_{name.upper()}": str(value) for name, value in settings.items()},
        }
        log = folder / f"worker-{new_job_id()}.log"
        self.node = f"{self.name}-{log.stem}@test"
        """Its name for Celery's remote control: who asks it alone waits for its answer, not for others'."""
        command = [sys.executable, "-m", "celery", "-A", self.app, "worker", "-Q", keys.queue(self.model)]
        options = ["-n", self.node, "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
        super().__init__([*command, *options], env, log)


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
