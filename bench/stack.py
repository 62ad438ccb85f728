"""A stack whole: its own Redis server, an API process, a worker process, and what an observer needs to know of it."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from bench.dialect import Dialect
from bench.environment import work_folder
from bench.errors import BenchError
from bench.process import Process, answers, wait_until
from bench.redis_server import DEFAULT, RedisServer
from nowserving.cli.port import find_free_port

QUIET_API = ("--log-level", "warning")
"""Options of every uvicorn here: Celery by default logs no line a job, so the API logs none either."""


class Stack(ABC):
    """A running stack, a context manager: everything is started on entry and ended on exit, the last part first."""

    name: ClassVar[str]
    dialect: ClassVar[Dialect]
    persistence: ClassVar[Sequence[str]] = DEFAULT

    folder: Path
    redis: RedisServer

    def __init__(self) -> None:
        self.port = find_free_port()
        self.processes: list[Process] = []
        self.parts = ExitStack()

    def __enter__(self) -> Self:
        """Start all parts; the API answers when this returns, the worker may still be loading."""
        try:
            self.folder = self.scratch(work_folder())
            self.redis = RedisServer(self.folder)
            self.parts.callback(self.redis.stop)
            self.redis.start(self.persistence)
            self.start()
            wait_until(lambda: answers(self.port, self.dialect.ready_path), "ready", 120, self.processes)
        except BenchError as error:
            logs = self.logs()
            self.parts.close()
            raise BenchError("\n".join([str(error), *logs])) from None
        except BaseException:
            self.parts.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all parts."""
        self.parts.close()

    def scratch(self, inside: Path | None = None) -> Path:
        """A folder that goes with the stack."""
        folder = tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=inside, ignore_cleanup_errors=True)
        return Path(self.parts.enter_context(folder))

    def run(self, name: str, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
        """Start a part in the checkout, from which it can import."""
        process = Process(name, command, self.folder, env)
        self.processes.append(process)
        self.parts.callback(process.stop)

    def logs(self) -> list[str]:
        """The end of each process's log."""
        return [f"--- {self.name}, {process.name}:\n{process.tail()}" for process in self.processes]

    def worker(self) -> list[psutil.Process]:
        """The processes that take and run jobs, parents first."""
        return self.processes[-1].tree()

    @abstractmethod
    def start(self) -> None:
        """Run the API, then the worker."""

    @abstractmethod
    def waiting(self) -> int:
        """Jobs still in the queue: one cheap command, so that asking does not disturb."""

    @abstractmethod
    def finish_times(self, job_ids: Sequence[str]) -> list[float]:
        """When these jobs finished, Unix seconds by this machine's clock; jobs not finished are left out."""
