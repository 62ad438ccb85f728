"""What clients do: submit, cancel, ask."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

from nowserving import keys, verb
from nowserving.answer import Enqueued, Queue
from nowserving.call import Call
from nowserving.errors import (
    IdempotencyConflictError,
    JobFinishedError,
    JobNotFoundError,
    NowservingError,
    QueueFullError,
)
from nowserving.job import Submission, fields_of
from tests.board import MODEL
from tests.game.claim import spell
from tests.game.move import ENDED, Move, Step


@cache
def fields(lane: str, new_tokens: int, retain: float) -> dict[str, str]:
    body = {"model": MODEL, "input": {"prompt": "hello"}, "lane": lane, "retain_seconds": retain}
    return fields_of(Submission.model_validate({**body, "parameters": {"max_new_tokens": new_tokens}}), seed=1)


@dataclass(frozen=True)
class Enqueue(Move):
    job_id: str
    lane: str = "normal"
    new_tokens: int = 10
    retain: float = 86400
    start_within: float | None = None
    key: str = ""
    fingerprint: str = "-"
    max_depth: int = 100

    def call(self) -> Call[Enqueued]:
        return verb.enqueue(
            self.job_id,
            MODEL,
            fields(self.lane, self.new_tokens, self.retain),
            max_depth=self.max_depth,
            start_within_seconds=self.start_within,
            idempotency_key=self.key,
            fingerprint=self.fingerprint,
        )

    def check(self, step: Step) -> None:
        before, after, answer, memory = step.before, step.after, step.answer, step.memory
        fingerprint, known = memory.keys.get(self.key, (self.fingerprint, ""))
        depth = sum(before.status(job_id) == "queued" for job_id in before.ids())
        if fingerprint != self.fingerprint:
            assert isinstance(answer, IdempotencyConflictError), f"{answer} for a key of another body"
            step.nothing()
        elif known or before.record(self.job_id):
            assert isinstance(answer, Enqueued), f"refused: {answer}"
            assert (answer.job_id, answer.existed) == (known or self.job_id, True), f"a second job: {answer}"
            step.nothing()
        elif depth >= self.max_depth:
            assert isinstance(answer, QueueFullError), f"{depth} of {self.max_depth} wait, and yet {answer}"
            step.nothing()
        else:
            assert isinstance(answer, Enqueued), f"refused: {answer}"
            order = before.waiting(MODEL)
            ahead = len(order if self.lane == "batch" else before.zset(keys.queue(MODEL)))
            assert (answer.position, answer.depth) == (ahead, len(order) + 1), f"{answer} behind {order}"
            assert after.waiting(MODEL).index(self.job_id) == ahead, "it is not the last of its lane"
            step.only(self.job_id)
            memory.accept(self.job_id)
            if self.key:
                memory.keys[self.key] = (self.fingerprint, self.job_id)


@dataclass(frozen=True)
class Cancel(Move):
    job_id: str

    def call(self) -> Call[None]:
        return verb.cancel(self.job_id)

    def check(self, step: Step) -> None:
        was = step.before.status(self.job_id)
        step.only(self.job_id)
        if was in ENDED or not was:
            expected = {"": JobNotFoundError, "canceled": None.__class__}.get(was, JobFinishedError)
            assert type(step.answer) is expected, f"{was}, and yet {step.answer}"
            step.nothing()
        else:
            assert step.answer is None
            assert step.after.status(self.job_id) == "canceled"
            text = spell(range(step.before.number(self.job_id, "generated")))
            said = json.loads(step.after.record(self.job_id)["output"])
            assert said["text"] == text, f"{said} is not the {text!r} that it had made"


@dataclass(frozen=True)
class Ask(Move):
    """A question changes nothing."""

    what: str
    job_id: str

    def call(self) -> Call[Any]:
        calls: dict[str, Call[Any]] = {
            "look": verb.look(self.job_id),
            "list": verb.list_jobs(limit=100),
            "queues": verb.queues([MODEL]),
            "workers": verb.workers([MODEL]),
            "read": verb.read_events({self.job_id: "0"}),
        }
        return calls[self.what]

    def check(self, step: Step) -> None:
        step.nothing()
        before, answer = step.before, step.answer
        statuses = Counter(before.status(job_id) for job_id in before.ids())
        match self.what:
            case "look":
                known = "" if isinstance(answer, NowservingError) else answer.job.status
                assert known == before.status(self.job_id)
            case "list":
                assert sorted(job.id for job in answer[0]) == sorted(before.ids())
            case "queues":
                queue: Queue = answer[0]
                assert (queue.depth, queue.running) == (statuses["queued"], statuses["running"]), f"{queue}"
            case "workers":
                alive = before.zset(keys.ALIVE + MODEL).items()
                assert {worker["name"] for worker in answer} == {w for w, until in alive if until >= step.memory.now}
            case "read":
                assert len(answer[self.job_id]) == len(before.events(self.job_id))
