"""The verbs of the store, one function a Lua script: each says what to send and how to read the answer.

Nothing here talks to Redis, so that store.py can send the same call with a blocking client or an async one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from nowserving.answer import Beat, Enqueued, Look, Queue, Reaped, Reconciled, Standing, Suspect, Taken, Unfit, Wait
from nowserving.call import Args, Call, Reply, csv, or_empty, pairs, read_deliveries, read_said, to_float, to_sequence
from nowserving.errors import IdempotencyConflictError, JobFinishedError, JobNotFoundError, QueueFullError, RecordError
from nowserving.event import Event
from nowserving.job import Job, Status

Charge = Literal["refund", "keep", "charge"]
"""What becomes of a claim's charge when the job is handed back: taken back, left as it is, made if there is none."""


def enqueue(
    job_id: str,
    model: str,
    fields: Mapping[str, str],
    *,
    max_depth: int,
    start_within_seconds: float | None = None,
    idempotency_key: str = "",
    fingerprint: str = "-",
    idempotency_seconds: int = 86400,
) -> Call[Enqueued]:
    """Accept a job. Its answer raises QueueFullError or IdempotencyConflictError."""

    def parse(reply: Reply) -> Enqueued:
        if reply[0] == "full":
            raise QueueFullError(f"{reply[1]} jobs wait for {model}, and {max_depth} may")
        if reply[0] == "conflict":
            raise IdempotencyConflictError(f"this Idempotency-Key belongs to {reply[1]}, which has another body")
        if reply[0] == "exists":
            return Enqueued(reply[1], to_sequence(reply[1], reply[2]), True)
        return Enqueued(reply[1], int(reply[2]), False, float(reply[3]), int(reply[4]), int(reply[5]))

    flat = (part for item in fields.items() for part in item)
    start = "" if start_within_seconds is None else start_within_seconds
    args = (job_id, model, max_depth, start, idempotency_key, fingerprint, idempotency_seconds, *flat)
    return Call("enqueue", args, parse)


def take(
    model: str,
    worker: str,
    claims: Sequence[str],
    *,
    lease_seconds: float,
    headroom: int,
    capacity: int,
    max_takes: int,
) -> Call[tuple[Taken, ...] | Unfit | Suspect]:
    """Take the first jobs of at most `headroom` tokens each, one a claim and no more than this worker's share."""

    def parse(reply: Reply) -> tuple[Taken, ...] | Unfit | Suspect:
        if reply and reply[0] == "suspect":
            return Suspect(reply[1])
        if reply and reply[0] == "unfit":
            return Unfit(reply[1], int(reply[2]))
        return tuple(Taken(claim, job_id, pairs(fields)) for claim, job_id, *fields in reply)

    return Call("take", (model, worker, lease_seconds, headroom, capacity, max_takes, *claims), parse)


def begin(job_id: str, claim: str, prompt_tokens: int, *, anew: bool = False) -> Call[bool]:
    """Charge the attempt as the prefill begins; False if the claim is lost.

    `anew`: the engine cannot resume, so that tokens of an earlier attempt no longer count, and readers are told so.
    """
    return Call("begin", (job_id, claim, prompt_tokens, int(anew)), lambda reply: bool(reply[0] == "ok"))


def progress(job_id: str, claim: str, done: int, total: int) -> Call[bool]:
    """Tell readers that `done` of `total` tokens are prefilled; False if the claim is lost."""
    return Call("progress", (job_id, claim, done, total), lambda reply: bool(reply[0] == "ok"))


def append(job_id: str, claim: str, index: int, ids: Sequence[int], text: str) -> Call[bool]:
    """Stream tokens `index`, `index + 1`, …; False if the claim is lost or tokens before them are missing."""
    args = (job_id, claim, index, len(ids), csv(ids), text)
    return Call("append", args, lambda reply: bool(reply[0] == "ok"))


def finish(
    job_id: str,
    claim: str,
    status: Status,
    result: Mapping[str, Any],
    *,
    index: int = 0,
    ids: Sequence[int] = (),
    text: str = "",
    begun: int | None = None,
    anew: bool = False,
    kept: str = "",
) -> Call[bool]:
    """End the job with its last tokens; `result` is the output, or the error if it failed. False if lost.

    `begun` and `anew` take the place of `begin` for a job that began and ended at once: its prompt's tokens.
    With `kept`, a finish_reason, an error gets an output beside it: what was made until then.
    """
    detail = "error" if status is Status.FAILED else "output"
    args: Args = (job_id, claim, status.value, detail, json.dumps(result), index, len(ids), csv(ids), text)
    args += (or_empty(begun), int(anew), kept)
    return Call("finish", args, lambda reply: bool(reply[0] == "done"))


def release(
    job_id: str,
    claim: str,
    cause: str,
    *,
    charge: Charge = "refund",
    tokens: int | None = None,
    error: Mapping[str, Any] | None = None,
    max_attempts: int = 1,
) -> Call[bool]:
    """Hand the job back; False if the claim is lost.

    Uncharged it gets its old place. If a charge stands it is a suspect and waits a while first; at `max_attempts`
    charges it fails instead, with `error` (worker_lost without one).
    """
    failure = json.dumps(error) if error else ""
    args = (job_id, claim, cause, charge, or_empty(tokens), max_attempts, failure)
    return Call("release", args, lambda reply: bool(reply[0] != "lost"))


def cancel(job_id: str) -> Call[None]:
    """Cancel the job; done twice is done once. Its answer raises JobNotFoundError, JobFinishedError, or RecordError."""

    def parse(reply: Reply) -> None:
        if reply[0] == "unknown":
            raise JobNotFoundError(f"there is no job {job_id}")
        if reply[0] == "unreadable":
            raise RecordError(f"{job_id} cannot be canceled: {reply[1]}")
        if reply[0] == "finished":
            raise JobFinishedError(f"{job_id} has {reply[1]} already and cannot be canceled")

    return Call("cancel", (job_id,), parse)


def renew(
    model: str,
    worker: str,
    claims: Iterable[str],
    *,
    lease_seconds: float,
    draining: bool,
    blocked: bool,
    reap_until: float,
    max_attempts: int,
    info: Mapping[str, Any],
) -> Call[Beat]:
    """The heartbeat, which also does what time has brought about for this model.

    Until `reap_until` (Unix seconds by Redis's clock) it queues jobs of lapsed leases again: see vigil.py.
    """
    args: Args = (model, worker, lease_seconds, int(draining), int(blocked), reap_until, max_attempts)
    args += (json.dumps(info), *claims)

    def parse(reply: Reply) -> Beat:
        return Beat(tuple(reply[0]), tuple((claim, job_id) for claim, job_id in reply[1]), float(reply[2]))

    return Call("renew", args, parse)


def leave(model: str, worker: str) -> Call[int]:
    """Take a stopping worker's name out of all keys; the number of jobs it still held, now queued again."""
    return Call("leave", (model, worker), lambda reply: int(reply[0]))


def reap(
    who: str, models: Iterable[str], *, period_seconds: float, max_attempts: int, reap_until: float
) -> Call[Reaped]:
    """The shared tick: does nothing if another process had it within `period_seconds` (0: always do it).

    `reap_until` as in `renew`.
    """

    def parse(reply: Reply) -> Reaped:
        requeued, failed, expired, forgotten, at = reply
        return Reaped(int(requeued), int(failed), int(expired), int(forgotten), float(at))

    args: Args = (who, round(period_seconds * 1000), max_attempts, reap_until, *models)
    return Call("reap", args, parse)


def reconcile(
    who: str, models: Iterable[str], cursor: str = "", *, hold_seconds: float = 0, limit: int = 200
) -> Call[Reconciled | None]:
    """Check that all keys agree, and mend what does not: a page of about `limit` entries; '' begins a round.

    Only one of all who ask does it: None if another did within its `hold_seconds` (0: do it in any case).
    """

    def parse(reply: Reply) -> Reconciled | None:
        if reply[0] == "other":
            return None
        cursor, looked, mended = reply
        return Reconciled(cursor, int(looked), tuple(zip(mended[::2], mended[1::2], strict=True)))

    return Call("reconcile", (who, round(hold_seconds * 1000), cursor, limit, *models), parse)


def mended() -> Call[dict[str, int]]:
    """How often reconcile has mended what, since ever."""
    return Call("mended", (), lambda reply: {kind: int(count) for kind, count in pairs(reply).items()})


def look(job_id: str) -> Call[Look]:
    """A job and what it waits for. Its answer raises JobNotFoundError, or RecordError."""

    def parse(reply: Reply) -> Look:
        if not reply:
            raise JobNotFoundError(f"there is no job {job_id}; ended jobs are kept for their retain_seconds")
        job = Job.from_fields(pairs(reply[0]))
        deliveries = tuple(read_deliveries(reply[1]))
        if len(reply) == 2:
            return Look(job, None, deliveries)
        _, _, position, depth, run_seconds, delayed_until, workers = reply
        said = tuple(map(read_said, workers))
        wait = Wait(int(position), int(depth), to_float(run_seconds), to_float(delayed_until), said)
        return Look(job, wait, deliveries)

    return Call("look", (job_id,), parse)


def positions(job_ids: Iterable[str]) -> Call[dict[str, Standing]]:
    """Where those of the jobs stand that wait."""
    ids = tuple(job_ids)

    def parse(reply: Reply) -> dict[str, Standing]:
        return {i: Standing(int(said[0]), to_float(said[1])) for i, said in zip(ids, reply, strict=True) if said}

    return Call("positions", ids, parse)


def list_jobs(
    *, before: int | None = None, limit: int = 20, status: str = "", model: str = ""
) -> Call[tuple[list[Job], int | None]]:
    """Kept jobs, newest first, and the cursor for the next page (None at the end). Unreadable records are left out."""

    def parse(reply: Reply) -> tuple[list[Job], int | None]:
        jobs = []
        for fields in reply[1:]:
            with suppress(RecordError):
                jobs.append(Job.from_fields(pairs(fields)))
        return jobs, int(reply[0]) if reply[0] else None

    return Call("list", (or_empty(before), limit, status, model), parse)


def queues(models: Iterable[str]) -> Call[list[Queue]]:
    """How each model's queue stands."""

    def parse(reply: Reply) -> list[Queue]:
        names = ("normal", "batch", "delayed", "running", "busy", "blocked", "dead")
        return [
            Queue(
                model=model,
                **dict(zip(names, map(int, counts), strict=True)),
                oldest_wait_seconds=to_float(oldest),
                run_seconds=to_float(run_seconds),
            )
            for model, *counts, oldest, run_seconds in reply
        ]

    return Call("queues", tuple(models), parse)


def workers(models: Iterable[str]) -> Call[list[dict[str, Any]]]:
    """The live workers' own descriptions, with `model` and `name`."""

    def parse(reply: Reply) -> list[dict[str, Any]]:
        return [{**read_said(info), "name": name, "model": model} for model, name, info in reply]

    return Call("workers", tuple(models), parse)


def read_events(positions: Mapping[str, str]) -> Call[dict[str, list[Event]]]:
    """Events of each job after a stream id ("0": from the first); at most 500 a job, so ask again till none comes."""

    def parse(reply: Reply) -> dict[str, list[Event]]:
        return {
            job_id: [Event.from_entry(entry_id, pairs(fields)) for entry_id, fields in entries]
            for job_id, entries in zip(positions, reply, strict=True)
        }

    return Call("read", tuple(part for item in positions.items() for part in item), parse)
