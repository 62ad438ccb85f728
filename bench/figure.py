"""The figures of the table: what each is called, whether more or less of it is better, and what nowserving aims at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    label: str
    more_is_better: bool
    times_at_least: float | None = None
    """Aim: so many times better than the peer."""
    at_most: float | None = None
    """Aim: nowserving's own value, whatever the peer's."""

    def times_better(self, peer: float, ours: float) -> float:
        """How many times better ours is; under 1 it is worse."""
        better, worse = (ours, peer) if self.more_is_better else (peer, ours)
        return better / worse if worse else float("inf")

    def aim(self) -> str:
        """The aim in words."""
        if self.times_at_least is not None:
            return f"≥ {self.times_at_least:g}x"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    def reached(self, ours: float, times: float) -> bool | None:
        """Whether the aim is reached; None if there is none."""
        if self.times_at_least is not None:
            return times >= self.times_at_least
        return ours <= self.at_most if self.at_most is not None else None


FIGURES: Sequence[Figure] = (
    Figure("submits_per_second", "submits/s, 32 clients", True, times_at_least=3),
    Figure("submit_p50_ms", "  submit p50, ms", False),
    Figure("submit_p99_ms", "  submit p99, ms", False),
    Figure("submits_per_second_suspended", "  submits/s, worker suspended", True),
    Figure("submit_api_cpu_ms", "    CPU a job: API, ms", False),
    Figure("submit_redis_cpu_ms", "    CPU a job: Redis, ms", False),
    Figure("seen_done_per_second", "submit to seen done, jobs/s, 32 clients", True, times_at_least=3),
    Figure("polled_done_per_second", "  both polled every 10 ms", True),
    Figure("drained_per_second", "unobserved drain, jobs/s", True, times_at_least=1),
    Figure("drain_worker_cpu_ms", "    CPU a job: worker, ms", False),
    Figure("drain_redis_cpu_ms", "    CPU a job: Redis, ms", False),
    Figure("one_job_p50_ms", "one job, submit to seen done, p50, ms", False, times_at_least=1),
    Figure("one_job_p99_ms", "  p99, ms", False),
    Figure("one_job_polled_p50_ms", "  both polled every 1 ms, p50, ms", False),
    Figure("one_job_polled_p99_ms", "  p99, ms", False),
    Figure("idle_commands_per_second", "idle worker, client commands/s", False, at_most=5),
)
