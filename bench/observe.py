"""The observations: each looks at one stack for some seconds and answers with figures by name (see figure.py).

All use the same clients over 32 connections, or one. Each starts with nothing waiting and ends when all its jobs are
done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.client import Load, Way, see_all_done, submit_all
from bench.cpu import Cpu
from bench.idle import count_commands_per_second
from bench.process import resume, suspend, wait_until
from bench.stack import Stack

CLIENTS = 32
OWN_WAY = Way(wait=True, poll_seconds=0.01)
"""nowserving answers when the job is done; the tutorials' stack is polled at the interval that serves it best: with 32
clients 10 to 20 ms gave most jobs a second (0, 5, 50 and 100 ms gave fewer)."""
POLLING = Way(wait=False, poll_seconds=0.01)
OWN_WAY_ALONE = Way(wait=True, poll_seconds=0.001)
"""One client alone sees its job done soonest when it looks every millisecond (0, 2, 5 and 10 ms were slower)."""
POLLING_ALONE = Way(wait=False, poll_seconds=0.001)

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done in one observation."""

    jobs: int
    idle_seconds: float

    @property
    def jobs_alone(self) -> int:
        """Jobs of the client that does one at a time."""
        return max(20, self.jobs // 10)


Observation = Callable[[Stack, Size], Awaitable[Figures]]


async def warm_up(stack: Stack, size: Size) -> Figures:
    """Have one job done, which shows that the worker is up, then some more; no figures."""
    await see_all_done(stack, 1, 1, POLLING)
    await see_all_done(stack, CLIENTS, max(100, size.jobs // 10), POLLING)
    return {}


async def submit_live(stack: Stack, size: Size) -> Figures:
    """Submit while the worker runs."""
    load = await submit_all(stack, CLIENTS, size.jobs)
    wait_for_all(stack, load.job_ids)
    return {
        "submits_per_second": load.per_second,
        "submit_p50_ms": load.percentile_ms(50),
        "submit_p99_ms": load.percentile_ms(99),
    }


async def fill_and_drain(stack: Stack, size: Size) -> Figures:
    """Submit while the worker is suspended, then let it go on, and look at nothing but the queue's length.

    The clock runs from the moment the worker goes on, up and connected as it was, to the time of finishing that the
    last job's record or result bears, read afterwards.
    """
    worker = stack.worker()
    empty = Cpu.of(stack)
    suspend(worker)
    try:
        load = await submit_all(stack, CLIENTS, size.jobs)
    finally:
        full = Cpu.of(stack)
        began = time.time()
        resume(worker)
    ended = wait_for_all(stack, load.job_ids)
    filling, draining = full.ms_a_job(empty, size.jobs), Cpu.of(stack).ms_a_job(full, size.jobs)
    return {
        "submits_per_second_suspended": load.per_second,
        "submit_api_cpu_ms": filling.api,
        "submit_redis_cpu_ms": filling.redis,
        "drained_per_second": size.jobs / (ended - began),
        "drain_worker_cpu_ms": draining.worker,
        "drain_redis_cpu_ms": draining.redis,
    }


async def see_done(stack: Stack, size: Size) -> Figures:
    """Submit and see done, many clients, each stack in its own way."""
    load = await see_all_done(stack, CLIENTS, size.jobs, OWN_WAY)
    return {"seen_done_per_second": load.per_second}


async def see_done_polling(stack: Stack, size: Size) -> Figures:
    """Submit and see done, many clients, all stacks polled."""
    load = await see_all_done(stack, CLIENTS, size.jobs, POLLING)
    return {"polled_done_per_second": load.per_second}


async def see_one_done(stack: Stack, size: Size) -> Figures:
    """Submit and see done, one job after another, each stack in its own way."""
    return _alone("one_job", await see_all_done(stack, 1, size.jobs_alone, OWN_WAY_ALONE))


async def see_one_done_polling(stack: Stack, size: Size) -> Figures:
    """Submit and see done, one job after another, all stacks polled."""
    return _alone("one_job_polled", await see_all_done(stack, 1, size.jobs_alone, POLLING_ALONE))


async def watch_idle(stack: Stack, size: Size) -> Figures:
    """Count an idle worker's commands."""
    return {"idle_commands_per_second": await count_commands_per_second(stack, size.idle_seconds)}


OBSERVATIONS: Sequence[Observation] = (
    warm_up,
    submit_live,
    see_done,
    see_done_polling,
    fill_and_drain,
    see_one_done,
    see_one_done_polling,
)


async def observe(stacks: Sequence[Stack], size: Size) -> Mapping[str, Figures]:
    """Make each observation of one stack and at once of the next, so that a noisy moment meets all of them."""
    figures: dict[str, dict[str, float]] = {stack.name: {} for stack in stacks}
    for observation in OBSERVATIONS:
        for stack in stacks:
            figures[stack.name] |= await observation(stack, size)
    for stack, idle in zip(stacks, await asyncio.gather(*(watch_idle(stack, size) for stack in stacks)), strict=True):
        figures[stack.name] |= idle
    return figures


def wait_for_all(stack: Stack, job_ids: Sequence[str]) -> float:
    """Wait until these jobs are finished; the time the last one did."""
    wait_until(lambda: stack.waiting() == 0, "drained", 300, stack.processes)
    wait_until(lambda: len(stack.finish_times(job_ids)) == len(job_ids), "finished", 60, stack.processes)
    return max(stack.finish_times(job_ids))


def _alone(name: str, load: Load) -> Figures:
    return {f"{name}_p50_ms": load.percentile_ms(50), f"{name}_p99_ms": load.percentile_ms(99)}
