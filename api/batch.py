"""Many jobs in one body: a line of JSON each, accepted or refused line by line."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, Request, Response
from starlette.datastructures import Headers

from api import schema
from api.accept import accept, make_entry
from api.answer import answer_json
from api.body import parse_submission, read_body, too_large
from api.front import Front, front_of
from api.header import read_idempotency_key
from api.openapi import BATCH, BATCH_ANSWERS
from api.problem import MAX_ERRORS, STATUSES, ProblemError, problem_of, retry_after_seconds

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/x-ndjson"
MAX_JOBS = 10_000
LINES_AT_ONCE = 64
"""So many are checked and sent to Redis together; between two such parts others have their turn."""
MAX_KEY_CHARACTERS = 200

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post(
    "/batch",
    name="submit_batch",
    status_code=202,
    response_model=schema.Batch,
    responses=BATCH_ANSWERS,
    openapi_extra=BATCH,
)
async def submit_batch(request: Request) -> Response:
    """Accept many jobs, in the order of their lines, each as POST /v1/jobs would: 202 if all were, else 207.

    With an `Idempotency-Key` the same body makes the same jobs, however often it is sent: what was refused for want of
    room is accepted when there is some.
    """
    front = front_of(request)
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    if len(key) > MAX_KEY_CHARACTERS:
        raise ProblemError("invalid_header", f"Idempotency-Key may have {MAX_KEY_CHARACTERS} characters here")
    body = await read_body(request, front.settings.max_batch_bytes, MEDIA_TYPE)
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise ProblemError("invalid_input", "the body has no job: send one a line, as JSON")
    if len(lines) > MAX_JOBS:
        raise ProblemError(
            "payload_too_large", f"a batch may have {MAX_JOBS} jobs, not {len(lines)}; none was accepted"
        )
    await front.pulse.ensure()
    data: list[schema.Line] = []
    waits: list[int] = []
    for first in range(0, len(lines), LINES_AT_ONCE):
        part = lines[first : first + LINES_AT_ONCE]
        data += await asyncio.gather(*(_submit(front, request.headers, key, waits, *line) for line in part))
        await asyncio.sleep(0)
    accepted = sum(line["error"] is None for line in data)
    headers = {"Retry-After": str(max(waits))} if waits else {}
    answer: schema.Batch = {"accepted": accepted, "refused": len(data) - accepted, "data": data}
    return answer_json(answer, 202 if accepted == len(data) else 207, headers)


async def _submit(front: Front, headers: Headers, key: str, waits: list[int], number: int, line: bytes) -> schema.Line:
    """What became of a line; in `waits` the seconds after which a refusal may be none."""
    try:
        if len(line) > front.settings.max_body_bytes:
            raise too_large(front.settings.max_body_bytes)
        entry = await make_entry(front, headers, parse_submission(line), key and f"{key}/{number}")
        accepted = await accept(front, entry)
    except Exception as error:
        problem = problem_of(error)
        if problem.code == "internal_error":
            log.exception("line %s of a batch failed", number)
        status = STATUSES.get(problem.code, 500)
        if seconds := retry_after_seconds(problem, status):
            waits.append(seconds)
        told: schema.LineProblem = {
            "code": problem.code,
            "detail": problem.detail,
            "errors": problem.errors[:MAX_ERRORS],
        }
        return {"line": number, "status": status, "id": None, "error": told}
    job = accepted.look.job
    answered: schema.Line = {"line": number, "status": 200 if job.status.terminal else 202, "id": job.id, "error": None}
    if accepted.confirmed is not None:
        answered["durability"] = "confirmed" if accepted.confirmed else "unconfirmed"
    return answered
