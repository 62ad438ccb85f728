"""Everything on one machine: Redis, the API, workers and the deliverer, started and stopped in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from nowserving.catalog import Catalog
from nowserving.cli import command, redis_server
from nowserving.cli.failure import PartError
from nowserving.cli.interrupt import Interrupt
from nowserving.cli.part import Part, Restarts
from nowserving.cli.port import check_port, find_free_port, make_url
from nowserving.cli.process import Write
from nowserving.cli.webhook_secret import with_secret
from nowserving.client import Client
from nowserving.errors import NowservingError
from nowserving.settings import Settings

REDIS_START_SECONDS = 60.0
REDIS_STOP_SECONDS = 10.0
DRAIN_MARGIN_SECONDS = 5.0
WORKER_HURRY_SECONDS = 6.0
"""What a worker gets after the second signal: 1 s to hand back its jobs, and 4 s more after which it ends itself."""
HURRY_SECONDS = 2.0
"""What the API and Redis get then."""
AGAIN_SECONDS = 0.5
"""Between two signals to one process: closer together they might count as one."""
TICK_SECONDS = 0.1


class Stack:
    """The parts, and the order among them. Enter it and use it on the main thread."""

    def __init__(self, settings: Settings, catalog: Catalog, write: Write, interrupt: Interrupt) -> None:
        self.root = command.find_root("api", "workers")
        command.require("uvicorn", "api")
        command.require("celery", "worker")
        check_port(settings.host, settings.port)
        self._settings = settings.model_copy(update={"port": settings.port or find_free_port()})
        self._catalog = catalog
        self._write = write
        self._interrupt = interrupt
        self._redis: Part | None = None
        self._api: Part | None = None
        self._workers: dict[str, Part] = {}
        self._deliverer: Part | None = None
        self.secret_file: Path | None = None
        """What webhooks are signed with, once started; None if the settings say it."""
        self._held = ExitStack()
        self.url = make_url(settings.host, self._settings.port)
        self._client = self._held.enter_context(Client(self.url, timeout_seconds=5, retry_seconds=0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop(hurry=kind is not None and issubclass(kind, PartError))

    def start(self, deadline: float | None = None, embedded: bool = False) -> None:
        """Bring all up and wait until every worker is ready, at most to that monotonic time.

        `embedded`: with a Redis of its own in any case. Raises StartError, UnsuitableRedisError, PartError
        or Interrupted.
        """
        if embedded or "redis_url" not in self._settings.model_fields_set:
            self._start_redis()
        else:
            redis_server.check_url(self.redis_url)
        self._settings, self.secret_file = with_secret(self._settings)
        listen = command.api_command(self._settings.host, self._settings.port)
        env = command.environment(self._settings, self.root)
        self._api = Part("api", listen, env, self.root, self._write)
        self._api.start()
        for model in self._catalog:
            self._start_worker(model, model)
        # Nobody waits for the deliverer: what it is to send waits for it. Nor does its death at the start end all.
        run = command.deliver_command()
        self._deliverer = Part("deliver", run, env, self.root, self._write, restarts=Restarts(ready=True))
        self._deliverer.start()
        self.wait_till_ready(deadline)

    def add_worker(self, model: str) -> None:
        """Start one more worker of a model; wait_till_ready says when it can take jobs."""
        names = (f"{model}-{number}" for number in count(2))
        self._start_worker(next(name for name in names if name not in self._workers), model)

    def wait_till_ready(self, deadline: float | None = None) -> None:
        """Wait until the API and all workers are ready, at most to that monotonic time.

        Raises PartError or Interrupted.
        """
        self._wait(self._is_ready, deadline, "the API and the workers are not ready")
        for part in self._parts():
            part.restarts.ready = True

    def kill_worker(self, worker: str) -> int:
        """Kill a worker, by the name it gives itself, with SIGKILL, and never start it again; its process id.

        Raises PartError if there is none of that name.
        """
        for name, part in self._workers.items():
            if part.process and part.process.pid == pid_of(worker):
                del self._workers[name]
                part.process.clear()
                return part.process.pid
        raise PartError(f"there is no worker {worker}")

    def check(self) -> None:
        """Look after all parts. Raises PartError if one ended for good."""
        for part in self._parts():
            part.watch()

    def stop(self, hurry: bool = False) -> None:
        """Workers first, which let running jobs finish; then the deliverer, the API, and Redis last.

        With `hurry`, and from a second signal on, workers hand back their jobs at once.
        """
        drain_seconds = self._settings.drain_seconds + DRAIN_MARGIN_SECONDS
        self._end([*self._workers.values()], drain_seconds, WORKER_HURRY_SECONDS, hurry)
        self._end([self._deliverer], drain_seconds, WORKER_HURRY_SECONDS, hurry)
        self._end([self._api], command.GRACE_SECONDS + 2, HURRY_SECONDS)
        self._end([self._redis], REDIS_STOP_SECONDS, HURRY_SECONDS)
        self._held.close()

    @property
    def redis_url(self) -> str:
        """Where its Redis is; may hold a password."""
        return self._settings.redis_url.get_secret_value()

    def _start_worker(self, name: str, model: str) -> None:
        env = command.environment(self._settings, self.root)
        self._workers[name] = Part(name, command.worker_command(model, name), env, self.root, self._write)
        self._workers[name].start()

    def _start_redis(self) -> None:
        program = redis_server.find_server()
        data_dir = self._settings.data_dir.expanduser().absolute()
        self._held.enter_context(redis_server.lock_data(data_dir))
        redis_server.check_data(data_dir, program)
        port = find_free_port()
        url = f"redis://127.0.0.1:{port}/0"
        self._settings = self._settings.model_copy(update={"redis_url": SecretStr(url)})
        env = command.environment(self._settings, self.root)
        run = command.redis_command(program, port, data_dir)
        self._redis = Part("redis", run, env, data_dir, self._write, vital=True)
        self._redis.start()
        deadline = time.monotonic() + REDIS_START_SECONDS
        self._wait(lambda: redis_server.answers(url), deadline, f"{program} does not answer")

    def _is_ready(self) -> bool:
        with suppress(NowservingError):
            self._client.health()
            ready = {pid_of(worker["name"]) for worker in self._client.workers() if worker.get("state") == "ready"}
            # By process: the name of an earlier one outlives it a while.
            return all(part.process and part.process.pid in ready for part in self._workers.values())
        return False

    def _wait(self, done: Callable[[], bool], deadline: float | None, sentence: str) -> None:
        while True:
            self.check()
            if done():
                return
            if deadline is not None and time.monotonic() > deadline:
                raise PartError(f"{sentence} in time")
            self._interrupt.pause(TICK_SECONDS)

    def _parts(self) -> list[Part]:
        return [part for part in (self._redis, self._api, *self._workers.values(), self._deliverer) if part]

    def _end(
        self, parts: Sequence[Part | None], patience_seconds: float, hurried_seconds: float, hurry: bool = False
    ) -> None:
        """Tell parts to stop, and tell them again once it is to be quick; kill what has not ended in time."""
        processes = [part.process for part in parts if part and part.process]
        hurried = False
        told_at = time.monotonic()
        deadline = told_at + patience_seconds
        for process in processes:
            process.terminate()
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            now = time.monotonic()
            if not hurried and (hurry or self._interrupt.count > 1):
                hurried, deadline = True, min(deadline, now + hurried_seconds)
            if hurried and now - told_at > AGAIN_SECONDS:
                told_at = now
                for process in processes:
                    process.terminate()
            time.sleep(0.05)
        for process in processes:
            process.clear()


def pid_of(worker: str) -> int | None:
    """The process id in a worker's name, host:pid:random."""
    part = worker.split(":")[-2:-1]
    return int(part[0]) if part and part[0].isdigit() else None
