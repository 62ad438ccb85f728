"""From a request to a job in the queue."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from starlette.datastructures import Headers

from api.admission import LIMIT_NAME, admit, retry_when_full_seconds
from api.body import fingerprint
from api.front import Front
from api.header import read_api_key, read_traceparent
from api.outlook import count_slots
from api.problem import ProblemError
from nowserving import verb
from nowserving.answer import Look, Wait
from nowserving.errors import QueueFullError, StoreUnavailableError
from nowserving.job import Job, Status, Submission, fields_of, new_job_id
from nowserving.receiver import Receiver
from nowserving.schema import Durability


@dataclass(frozen=True, slots=True)
class Entry:
    """A job about to be queued. `job_id` is it unless the key is known already."""

    job_id: str
    submission: Submission
    idempotency_key: str
    fingerprint: str
    receivers: tuple[Receiver, ...]
    traceparent: str | None
    retry_of: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that is queued, or was before. `confirmed`: whether the replicas asked for have it; None if none are."""

    look: Look
    confirmed: bool | None

    @property
    def status(self) -> int:
        """Of the HTTP answer."""
        return 200 if self.look.job.status.terminal else 202

    @property
    def durability(self) -> Durability | None:
        """What to say of replicas, where any are asked for."""
        if self.confirmed is None:
            return None
        return "confirmed" if self.confirmed else "unconfirmed"


async def make_entry(
    front: Front, headers: Headers, asked: Submission, idempotency_key: str, limit_name: str = LIMIT_NAME
) -> Entry:
    """Check and complete what was asked for; `limit_name` is how the client spells max_new_tokens.

    Raises ProblemError or UnknownModelError.
    """
    submission = admit(asked, front.catalog, limit_name)
    if submission.parameters.seed is None:
        # 53 bits, so that it survives a JavaScript client.
        seeded = submission.parameters.model_copy(update={"seed": secrets.randbits(53)})
        submission = submission.model_copy(update={"parameters": seeded})
    receivers = await front.webhooks.receivers_of(asked.webhook, read_api_key(headers))
    traceparent = read_traceparent(headers.getlist("traceparent"))
    digest = fingerprint(asked) if idempotency_key else "-"
    return Entry(new_job_id(), submission, idempotency_key, digest, receivers, traceparent)


def retry_entry(front: Front, job: Job, idempotency_key: str, traceparent: str | None) -> Entry:
    """An ended job once more, as a new one of the same receivers.

    Raises JobNotRetryableError, ProblemError or UnknownModelError.
    """
    submission = admit(job.to_submission(), front.catalog)
    return Entry(
        new_job_id(), submission, idempotency_key, f"retry:{job.id}", job.receivers, traceparent, retry_of=job.id
    )


async def accept(front: Front, entry: Entry) -> Accepted:
    """Queue the job, or find the one its key made before. Raises ProblemError when the queue is full."""
    submission, settings = entry.submission, front.settings
    fields = fields_of(
        submission, seed=0, retry_of=entry.retry_of, receivers=entry.receivers, traceparent=entry.traceparent
    )
    call = verb.enqueue(
        entry.job_id,
        submission.model,
        fields,
        max_depth=settings.max_depth,
        start_within_seconds=submission.start_within_seconds,
        idempotency_key=entry.idempotency_key,
        fingerprint=entry.fingerprint,
        idempotency_seconds=settings.idempotency_seconds,
    )
    try:
        enqueued, confirmed = await front.store.confirm(call)
        if enqueued.existed:
            return Accepted(await front.store.run(verb.look(enqueued.job_id)), confirmed)
    except QueueFullError as error:
        load = await front.load.learn(submission.model)
        seconds = retry_when_full_seconds(load.depth, load.run_seconds, count_slots(load.workers))
        raise ProblemError(error.code, error.message, retry_after_seconds=seconds) from None
    except StoreUnavailableError as error:
        # It may have arrived. Who has a key finds it by that; to anybody else it was refused.
        if not entry.idempotency_key and not error.answered:
            front.canceler.cancel(entry.job_id)
        raise
    job = Job(
        id=entry.job_id,
        model=submission.model,
        status=Status.QUEUED,
        lane=submission.lane,
        sequence=enqueued.sequence,
        input=submission.input,
        parameters=submission.parameters,
        tokens=int(fields["tokens"]),
        created_at=enqueued.created_at,
        timeout_seconds=submission.timeout_seconds,
        retain_seconds=submission.retain_seconds,
        metadata=submission.metadata,
        start_within_seconds=submission.start_within_seconds,
        retry_of=entry.retry_of,
        receivers=entry.receivers,
        traceparent=entry.traceparent,
    )
    load = await front.load.recall(submission.model)
    wait = Wait(enqueued.position, enqueued.depth, load.run_seconds, None, load.workers)
    return Accepted(Look(job, wait), confirmed)
