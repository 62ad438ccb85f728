"""CPU seconds by part of a stack: where the time of a job goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import psutil

from bench.stack import Stack


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds used since each part started, by itself and its processes."""

    api: float
    worker: float
    redis: float

    @classmethod
    def of(cls, stack: Stack) -> Self:
        """Read the clocks."""
        worker = stack.worker()
        others = [process for part in stack.processes for process in part.tree() if process not in worker]
        return cls(_seconds(others), _seconds(worker), _seconds(stack.redis.tree()))

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return self.api + self.worker + self.redis

    def ms_a_job(self, before: Cpu, jobs: int) -> Cpu:
        """What was used since `before`, shared among so many jobs."""
        scale = 1000 / jobs
        return Cpu(
            (self.api - before.api) * scale,
            (self.worker - before.worker) * scale,
            (self.redis - before.redis) * scale,
        )


def _seconds(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
