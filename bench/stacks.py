"""The stacks that are compared, each started as its users start it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

import psutil

from bench.dialect import NOWSERVING, TUTORIAL
from bench.environment import python_of
from bench.redis_server import DURABLE
from bench.stack import QUIET_API, Stack


class Tutorial(Stack):
    """bench/peers/tutorial: Celery's defaults (prefork, one process a core) on Redis's defaults."""

    name = "tutorial"
    dialect = TUTORIAL
    queue: ClassVar[str] = "celery"

    def start(self) -> None:
        """Run uvicorn, then Celery."""
        python = python_of("tutorial")
        env = {"REDIS_URL": self.redis.url}
        app = "bench.peers.tutorial.app:app"
        self.run("api", [python, "-m", "uvicorn", app, "--port", str(self.port), *QUIET_API], env)
        self.run("worker", [python, "-m", "celery", "-A", "bench.peers.tutorial.task", "worker"], env)

    def waiting(self) -> int:
        """Length of Celery's list."""
        return _integer(self.redis.client.llen(self.queue))

    def finish_times(self, job_ids: Sequence[str]) -> list[float]:
        """`date_done` of the results."""
        results = self.redis.client.mget([f"celery-task-meta-{job_id}" for job_id in job_ids])
        assert isinstance(results, list)
        return [datetime.fromisoformat(json.loads(text)["date_done"]).timestamp() for text in results if text]


class Nowserving(Stack):
    """This checkout, with one model of the catalog, on Redis with every write on disk before it is answered."""

    name = "nowserving"
    dialect = NOWSERVING
    persistence = DURABLE

    def __init__(self, model: str = "noop", entry: str = 'engine = "noop"\nslots = 8', **settings: object) -> None:
        super().__init__()
        self._settings = {f"NOWSERVING_{name.upper()}": str(value) for name, value in settings.items()}
        self._catalog = f"[models.{model}]\n{entry}\n"
        self._queue = f"nowserving:queue:{model}"

    def start(self) -> None:
        """Run uvicorn, then Celery."""
        models = self.folder / "models.toml"
        models.write_text(self._catalog)
        env = {"NOWSERVING_REDIS_URL": self.redis.url, "NOWSERVING_MODELS_FILE": str(models), **self._settings}
        self.run("api", [sys.executable, "-m", "uvicorn", "api.app:app", "--port", str(self.port), *QUIET_API], env)
        worker = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", self._queue, "-P", "threads"]
        self.run("worker", worker, env)

    def waiting(self) -> int:
        """Size of the queue's sorted set."""
        return _integer(self.redis.client.zcard(self._queue))

    def finish_times(self, job_ids: Sequence[str]) -> list[float]:
        """`finished_at` of the records."""
        pipeline = self.redis.client.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hget(f"nowserving:job:{job_id}", "finished_at")
        return [float(text) for text in pipeline.execute() if text]


class Ray(Tutorial):
    """bench/peers/ray: Ray Serve's asynchronous inference; underneath a Celery of its own, with results in Redis."""

    name = "ray"
    queue = "generate"

    def start(self) -> None:
        """Run Ray, which starts the rest, in a home of its own: it would leave a token and logs in the user's."""
        home = str(self.scratch())  # not under .bench: the path of a socket must be short
        env = {"REDIS_URL": self.redis.url, "HOME": home, "RAY_TMPDIR": home, "RAY_USAGE_STATS_ENABLED": "0"}
        self.run("ray", [python_of("ray"), "-m", "bench.peers.ray.app", str(self.port)], env)

    def worker(self) -> list[psutil.Process]:
        """The replica of the consumer, a process that Ray named after the class."""
        return [process for process in self.processes[-1].tree() if "Generator" in " ".join(process.cmdline())]


STACKS = {stack.name: stack for stack in (Tutorial, Nowserving, Ray)}


def _integer(reply: object) -> int:
    assert isinstance(reply, int)
    return reply
