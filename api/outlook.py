"""What a queued job may expect: why it waits, and for how long. Pure."""

from __future__ import annotations

from typing import Any

from nowserving.answer import Wait
from nowserving.schema import WaitReason

EXPLANATIONS: dict[WaitReason, str] = {
    "no_worker": "no worker serves this model now",
    "retry_backoff": "it waits before its next try",
    "behind": "jobs before it in the queue go first",
    "starting": "a worker is about to take it",
    "gpu_memory": "the workers' memory is full",
    "ledger": "the workers' memory is promised to running jobs",
    "slots": "all slots of the workers are taken",
    "suspect": "a job that may have killed a worker has a worker for itself",
    "engine": "the workers' engine is loading or away",
    "draining": "the workers are stopping",
}
_PREFERRED: tuple[WaitReason, ...] = ("gpu_memory", "ledger", "slots", "suspect", "engine", "draining")
"""Of several workers' reasons the one that tells most of when this changes."""


def find_reason(wait: Wait) -> WaitReason:
    """Why the job is not running: a key of EXPLANATIONS."""
    if wait.delayed_until is not None:
        return "retry_backoff"
    if not wait.workers:
        return "no_worker"
    gates = [worker.get("gate") or {} for worker in wait.workers]
    if any(gate.get("open") for gate in gates):
        return "behind" if wait.position else "starting"
    reasons = {"engine" if worker.get("state") == "loading" else gate.get("reason") for worker, gate in _with(wait)}
    return next((reason for reason in _PREFERRED if reason in reasons), "engine")


def estimate_wait_seconds(wait: Wait, now: float) -> float | None:
    """When the job may start, from how long jobs ran lately; None if nobody can know. `now` in Unix seconds."""
    if wait.delayed_until is not None:
        return round(max(0.0, wait.delayed_until - now), 1)
    serving = [worker for worker in wait.workers if worker.get("state") == "ready"]
    slots = sum(int(worker.get("slots", 0)) for worker in serving)
    free = sum(
        max(0, int(worker.get("slots", 0)) - int(worker.get("running", 0)))
        for worker, gate in _with(wait)
        if gate.get("open")
    )
    if wait.position < free:
        return 0.0
    if not slots or wait.run_seconds is None:
        return None
    return round((wait.position - free + 1) * wait.run_seconds / slots, 1)


def count_slots(workers: tuple[dict[str, Any], ...]) -> int:
    """Jobs that ready workers can run at once."""
    return sum(int(worker.get("slots", 0)) for worker in workers if worker.get("state") == "ready")


def _with(wait: Wait) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(worker, worker.get("gate") or {}) for worker in wait.workers]
