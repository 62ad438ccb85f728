"""What must be true of all that Redis holds, at every instant and from one instant to the next."""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import pairwise

from nowserving import keys
from nowserving.event import is_terminal
from nowserving.job import TRANSITIONS, Status
from tests.game.dump import Dump, Entry

FOR_LIFE = ("id", "v", "model", "lane", "sequence", "created_at", "started_at", "input", "parameters")
"""Fields of a record that stay as they were set."""


def wrong_in(dump: Dump, model: str, hidden: Set[str]) -> Iterator[str]:
    """What is not as it must be at any instant. `hidden`: workers that are not to be in `busy`, whatever they hold."""
    for job_id in dump.ids():
        yield from (f"{job_id} {wrong}" for wrong in _wrong_with(dump, model, job_id))
    for key, members in dump.zsets.items():
        if key.startswith((keys.QUEUE, keys.DELAYED, keys.STARTING, keys.RUNNING, keys.JOBS, keys.FINISHED)):
            yield from (f"{key} has {member}, which has no record" for member in members if not dump.record(member))
    held: dict[str, int] = {}
    for (worker, claim), job_id in dump.held().items():
        held[worker] = held.get(worker, 0) + 1
        if dump.claim(job_id) != claim or dump.record(job_id).get("worker") != worker:
            yield f"{worker} holds {job_id} by {claim}, which is not its claim"
    busy = {worker: int(jobs) for worker, jobs in dump.hash(keys.BUSY + model).items()}
    if busy != {worker: jobs for worker, jobs in held.items() if worker not in hidden}:
        yield f"busy are {busy}, but claims are held by {held} (hidden: {hidden})"
    if dead := dump.hash(keys.DEAD + model):
        yield f"set aside: {dead}"
    ended = {job_id for job_id in dump.ids() if Status(dump.status(job_id)).terminal}
    expiring = {key for job_id in ended for key in (keys.JOB + job_id, keys.events(job_id))}
    expiring |= {key for key in dump.strings if key.startswith(keys.IDEMPOTENCY)}
    if dump.expiring - {keys.TICK} != expiring:
        yield f"keys that have a TTL or should: {dump.expiring ^ expiring}"


def _wrong_with(dump: Dump, model: str, job_id: str) -> Iterator[str]:
    record, status = dump.record(job_id), Status(dump.status(job_id))
    places = {key: members[job_id] for key, members in dump.zsets.items() if job_id in members}
    expected = {keys.JOBS: float(record["sequence"])}
    if status is Status.QUEUED:
        expected[keys.queue(model, record["lane"])] = float(record["sequence"])
        if keys.DELAYED + model in places:
            expected.popitem()
            expected[keys.DELAYED + model] = places[keys.DELAYED + model]
        if "start_by" in record:
            expected[keys.STARTING + model] = float(record["start_by"])
    elif status is Status.RUNNING:
        expected[keys.RUNNING + model] = places.get(keys.RUNNING + model, 0)
    else:
        expected[keys.FINISHED] = places.get(keys.FINISHED, 0)
        if keys.COLLAPSE in places:
            expected[keys.COLLAPSE] = places[keys.COLLAPSE]
    if {key: round(score, 6) for key, score in places.items()} != {k: round(s, 6) for k, s in expected.items()}:
        yield f"is {status} and stands in {places}, not in {expected}"
    claims = [holder for holder, held in dump.held().items() if held == job_id]
    if claims != ([(record["worker"], record.get("claim"))] if status is Status.RUNNING else []):
        yield f"is {status} and held by {claims}"
    if ("claim" in record) != (status is Status.RUNNING):
        yield f"is {status} with the claim {record.get('claim')}"
    yield from wrong_in_story(dump.events(job_id), status, dump.number(job_id, "generated"))


def wrong_in_story(events: list[Entry], status: Status, generated: int) -> Iterator[str]:
    """Tokens come once and in order, from 0 again after `restarted`; an ended job has one terminal event, the last."""
    tokens, started, last = 0, False, ""
    ends: list[str] = []
    for event in events:
        kind = event["type"]
        if ends:
            yield f"has {kind} after {ends}"
        if kind == "started" and started:
            yield "was started twice under one claim"
        if kind == "token" and int(event["index"]) != tokens:
            yield f"has index {event['index']} after {tokens} tokens"
        if kind == "progress" and last not in ("started", "restarted", "progress"):
            yield f"has progress after {last}"
        last = kind
        started = kind == "started" or (started and kind != "queued")
        tokens = 0 if kind == "restarted" else tokens + len([part for part in event.get("ids", "").split(",") if part])
        ends += [kind] if is_terminal(kind) else []
    if ends != ([status.value] if status.terminal else []):
        yield f"is {status}, and its events say {ends}"
    if tokens != generated:
        yield f"has {tokens} tokens on its stream, and says {generated}"


def _in_short(stream: list[tuple[str, Entry]]) -> tuple[list[tuple[str, Entry]], str, str]:
    """What a stream says, collapsed or not: all but tokens and progress with its ids, the tokens, then their text."""
    others: list[tuple[str, Entry]] = []
    tokens: list[Entry] = []
    for entry_id, event in stream:
        if event["type"] == "restarted":
            tokens.clear()
        if event["type"] == "token":
            tokens.append(event)
        elif event["type"] != "progress":
            others.append((entry_id, event))
    ids = ",".join(event["ids"] for event in tokens if event["ids"])
    return others, ids, "".join(event["text"] for event in tokens)


def wrong_between(before: Dump, after: Dump, model: str) -> Iterator[str]:
    """What one call may never do."""
    for job_id in {*before.ids(), *after.ids()}:
        was, now = before.status(job_id), after.status(job_id)
        kept = {name: before.record(job_id).get(name) for name in FOR_LIFE} if was and now else {}
        if altered := {k for k, value in kept.items() if value and value != after.record(job_id).get(k)}:
            yield f"{job_id} has other {altered}"
        told, tells = before.streams.get(keys.events(job_id), []), after.streams.get(keys.events(job_id), [])
        if was and Status(was).terminal:
            if now and (before.record(job_id), _in_short(told)) != (after.record(job_id), _in_short(tells)):
                yield f"{job_id} has changed after its end"
            continue
        if not now or told != tells[: len(told)]:
            yield f"{job_id} has lost its record or events"
            continue
        passed = [entry["type"] for _, entry in tells[len(told) :] if entry["type"] in set(Status)]
        trail = [was, *passed, *([now] if now != (passed or [was])[-1] else [])]
        for here, there in pairwise(trail):
            if there not in TRANSITIONS[Status(here)] if here else there != Status.QUEUED:
                yield f"{job_id} went from {here} to {there}"
    woken = before.streams.get(keys.wake(model)) != after.streams.get(keys.wake(model))
    if not woken and (queued := set(after.waiting(model)) - set(before.waiting(model))):
        yield f"nobody was woken for {queued}"
