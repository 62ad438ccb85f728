"""Jobs: submit, look, list, cancel, retry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import WithJsonSchema

from api.accept import Accepted, Entry, accept, make_entry, retry_entry
from api.admission import retry_when_accepted_seconds
from api.answer import answer_json, answer_look, describe, describe_look
from api.body import parse_submission, read_body
from api.front import front_of
from api.header import read_idempotency_key, read_prefer_wait, read_traceparent
from api.openapi import ACCEPTED, RETRY, SUBMISSION
from api.problem import ProblemError
from api.schema import JobPage
from api.wait import accept_and_wait, wait_for_end
from nowserving import schema, verb
from nowserving.job import Status, is_job_id

MAX_SEQUENCE = 2**53

Cursor = Annotated[
    int | None,
    Query(ge=0, le=MAX_SEQUENCE, description="next_cursor of the page before."),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+$"}),  # to clients a word that they hand back
]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post("", status_code=202, response_model=schema.Job, responses=ACCEPTED, openapi_extra=SUBMISSION)
async def submit(request: Request) -> Response:
    """Accept a job: 202 and where to look. With `Prefer: wait=N` 200 and the result, if it ends within N seconds.

    With an `Idempotency-Key` the same body makes one job, however often it is sent.
    """
    front = front_of(request)
    key = read_idempotency_key(request.headers)
    asked = parse_submission(await read_body(request, front.settings.max_body_bytes))
    entry = await make_entry(front, request.headers, asked, key)
    wait_seconds = read_prefer_wait(request.headers.getlist("prefer"))
    await front.pulse.ensure()
    if not wait_seconds or front.hub.full:
        # A preference may be ignored, a job may not.
        return _answer_accepted(entry, await accept(front, entry))

    wait_seconds = min(wait_seconds, front.settings.max_wait_seconds)
    accepted = await accept_and_wait(front, request, entry, wait_seconds)
    return _answer_accepted(entry, accepted, {"Preference-Applied": f"wait={wait_seconds:g}"})


def _answer_accepted(entry: Entry, accepted: Accepted, headers_if_ended: Mapping[str, str] | None = None) -> Response:
    look = accepted.look
    body = describe_look(look)
    headers = {"Location": f"/v1/jobs/{look.job.id}"}
    if look.job.id != entry.job_id:
        headers["Idempotency-Replayed"] = "true"
    if look.job.status.terminal:
        return answer_json(body, accepted.status, {**headers, **(headers_if_ended or {})})
    if durability := accepted.durability:
        body["durability"] = durability
    wait_seconds = body["queue"] and body["queue"]["estimated_wait_seconds"]
    headers["Retry-After"] = str(retry_when_accepted_seconds(wait_seconds))
    return answer_json(body, accepted.status, headers)


@router.get("", name="list", response_model=JobPage)
async def index(
    request: Request,
    status: Annotated[Status | None, Query(description="Only jobs of this status.")] = None,
    model: Annotated[str, Query(max_length=128, description="Only jobs of this model.")] = "",
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Kept jobs, newest first. A page may be short and still have a next one."""
    call = verb.list_jobs(before=cursor, limit=limit, status=status or "", model=model)
    jobs, next_cursor = await front_of(request).store.run(call)
    cursor_text = None if next_cursor is None else str(next_cursor)
    return answer_json({"data": [describe(job) for job in jobs], "next_cursor": cursor_text})


@router.get("/{job_id}", name="get", response_model=schema.Job)
async def look(
    request: Request,
    job_id: str,
    wait: Annotated[
        float, Query(ge=0, allow_inf_nan=False, description="Answer when the job has ended, or after so many seconds.")
    ] = 0,
) -> Response:
    """A job as it stands."""
    check_job_id(job_id)
    front = front_of(request)
    look = await front.store.run(verb.look(job_id))
    wait_seconds = min(wait, front.settings.max_wait_seconds)
    if wait_seconds and not look.job.status.terminal:
        with front.hub.watch(job_id, end_only=True) as watch:
            look = await wait_for_end(front, request, watch, wait_seconds)
    return answer_look(look)


@router.post("/{job_id}/cancel", response_model=schema.Job)
async def cancel(request: Request, job_id: str) -> Response:
    """End a job that has not ended; done twice is done once."""
    check_job_id(job_id)
    store = front_of(request).store
    await store.run(verb.cancel(job_id))
    return answer_look(await store.run(verb.look(job_id)))


@router.post("/{job_id}/retry", status_code=202, response_model=schema.Job, responses=ACCEPTED, openapi_extra=RETRY)
async def retry(request: Request, job_id: str) -> Response:
    """Run a job that failed, expired or was canceled anew: a new job with the same input, parameters, seed, clocks
    and receivers, and `retry_of`. What failed with `timeout` would do so again: submit it with a longer
    `timeout_seconds`.

    With an `Idempotency-Key` one new job, however often it is sent.
    """
    check_job_id(job_id)
    front = front_of(request)
    key = read_idempotency_key(request.headers)
    traceparent = read_traceparent(request.headers.getlist("traceparent"))
    await front.pulse.ensure()
    found = await front.store.run(verb.look(job_id))
    entry = retry_entry(front, found.job, key, traceparent)
    return _answer_accepted(entry, await accept(front, entry))


def check_job_id(job_id: str) -> None:
    """Raise ProblemError for what cannot be a job's id."""
    if not is_job_id(job_id):
        raise ProblemError(
            "invalid_job_id",
            "a job id is job_ and 26 characters, as POST /v1/jobs answered it; of a chat, those after chatcmpl-",
        )
