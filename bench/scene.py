"""Measured scenes: a worker is killed, jobs are canceled, a worker is told to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from bench.stage import Stage
from nowserving import verb
from nowserving.job import Status
from nowserving.store import Store
from tests.chaos.crowd import words
from tests.chaos.witness import Act
from tests.worker_process import MODEL, look

JOBS = 8
"""Slots of a worker here, and jobs that it runs."""


def percentile(figures: Sequence[float], percent: int) -> float:
    """What so many percent of the figures stayed under."""
    return quantiles(figures, n=100, method="inclusive")[percent - 1]


@dataclass
class Takeover:
    """Seconds from a worker's kill -9 till each of its jobs was queued again, and till another worker took it."""

    lease_seconds: float
    queued_seconds: list[float] = field(default_factory=list)
    taken_seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Readers who saw a gap or a repetition, and texts unlike the calm run's."""


def take_over(folder: Path, kills: int, lease_seconds: float = 2, tokens: int = 100) -> Takeover:
    """Kill a worker with JOBS running jobs beside an idle one, so many times."""
    measured = Takeover(lease_seconds)
    with Stage(folder, slots=JOBS, token_seconds=0.03, lease_seconds=lease_seconds) as stage:
        holder = stage.start_worker()
        for _ in range(kills):
            ids = stage.submit(JOBS, tokens)
            sights = [stage.follow(job_id) for job_id in ids]
            stage.wait_until_making(ids)
            spare = stage.start_worker()
            killed_at = time.time()
            holder.kill()
            stage.wait_until_done(ids)
            takes = {act.job_id: act.at for act in _taken(stage)}
            for job_id, sight in zip(ids, sights, strict=True):
                measured.queued_seconds.append(_queued_again_at(stage.store, job_id) - killed_at)
                measured.taken_seconds.append(takes[job_id] - killed_at)
                if wrong := sight.result(10).wrong(words(tokens)):
                    measured.wrong.append(wrong)
                if (look(stage.store, job_id).output or {})["text"] != words(tokens):
                    measured.wrong.append(f"{job_id} has another text")
            holder = spare
    return measured


def _queued_again_at(store: Store, job_id: str) -> float:
    events = store.run(verb.read_events({job_id: "0"}))[job_id]
    return next(event.at for event in events if event.type == "queued")


@dataclass(frozen=True)
class Cancel:
    """Milliseconds from each POST till its slot was taken by the next job, which a worker does once it has let go."""

    freed_ms: Sequence[float]


def cancel(folder: Path, rounds: int = 1, jobs: int = 50) -> Cancel:
    """Cancel so many running jobs of one worker at once, with as many waiting for each round.

    The engine makes a token every 2 s, so that it is the heartbeat that learns of the cancel, not the next write.
    """
    freed_ms: list[float] = []
    with Stage(folder, slots=jobs, token_seconds=2) as stage:
        stage.submit((rounds + 1) * jobs, tokens=1000)
        stage.start_worker()
        for number in range(rounds):
            stage.wait(lambda: stage.store.run(verb.queues([MODEL]))[0].running == jobs, 30)
            running = _taken(stage)[number * jobs :]
            stage.wait_until_making([act.job_id for act in running])
            with ThreadPoolExecutor(jobs) as pool:
                posted = sorted(pool.map(lambda act: _post_cancel(stage, act.job_id), running))
            stage.wait(lambda: len(_taken(stage)) == len(posted) * (number + 2), 30)  # noqa: B023  called at once
            # Slots have no names: the first to be freed belongs to the first POST, and so on.
            freed = _taken(stage)[-jobs:]
            freed_ms += [(act.at - at) * 1000 for at, act in zip(posted, freed, strict=True)]
    return Cancel(freed_ms)


def _taken(stage: Stage) -> list[Act]:
    return [act for act in stage.acts() if act.verb == "take"]


def _post_cancel(stage: Stage, job_id: str) -> float:
    at = time.time()
    assert stage.client.cancel(job_id).status is Status.CANCELED
    return at


@dataclass(frozen=True)
class Drain:
    """What became of a worker that got SIGTERM while it ran JOBS long jobs, and of these."""

    exit_code: int
    seconds: float
    finished_elsewhere: int
    charged: int
    texts_equal: int


def drain(folder: Path, drain_seconds: float = 2, tokens: int = 300) -> Drain:
    """SIGTERM a worker whose jobs run longer than the drain, beside an idle one."""
    with Stage(folder, slots=JOBS, token_seconds=0.03, drain_seconds=drain_seconds) as stage:
        stopping = stage.start_worker()
        ids = stage.submit(JOBS, tokens)
        stage.wait_until_making(ids)
        stage.start_worker()
        first = {look(stage.store, job_id).worker for job_id in ids}
        began = time.monotonic()
        stopping.send(signal.SIGTERM)
        exit_code = stopping.wait(30)
        seconds = time.monotonic() - began
        stage.wait_until_done(ids)
        jobs = [look(stage.store, job_id) for job_id in ids]
        return Drain(
            exit_code,
            seconds,
            sum(job.worker not in first for job in jobs),
            sum(job.attempt for job in jobs),
            sum((job.output or {})["text"] == words(tokens) for job in jobs),
        )
