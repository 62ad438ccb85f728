"""Many jobs in one body: a line of JSON each, accepted or refused line by line."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from starlette.datastructures import Headers

from api import schema
from api.accept import accept, make_entry
from api.answer import answer_json
from api.body import parse_submission, read_body, too_large
from api.front import Front, front_of
from api.header import read_idempotency_key
from api.openapi import BATCH, BATCH_ANSWERS
from api.problem import MAX_ERRORS, ProblemError, problem_of, retry_after_seconds, status_of

MEDIA_TYPE = "application/x-ndjson"
MAX_JOBS = 10_000
LINES_AT_ONCE = 64
"""So many are checked and sent to Redis together; between two such parts other requests have their turn."""

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
    """Accept many jobs, each as POST /v1/jobs would: 202 if all were, else 207 and what became of each.

    With an `Idempotency-Key` the same body makes the same jobs, however often it is sent: what was refused for want of
    room is accepted when there is some.
    """
    front = front_of(request)
    key = read_idempotency_key(request.headers)
    body = await read_body(request, front.settings.max_batch_bytes, MEDIA_TYPE)
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise ProblemError("invalid_input", "the body has no job: send one a line, as JSON")
    if len(lines) > MAX_JOBS:
        raise ProblemError(
            "payload_too_large", f"a batch may have {MAX_JOBS} jobs, not {len(lines)}; none was accepted"
        )
    await front.pulse.ensure()
    answers: list[tuple[schema.Line, int]] = []
    for first in range(0, len(lines), LINES_AT_ONCE):
        part = lines[first : first + LINES_AT_ONCE]
        answers += await asyncio.gather(*(_submit(front, request.headers, key, *line) for line in part))
    data = [line for line, _ in answers]
    accepted = sum(line["error"] is None for line in data)
    retry_after = max(seconds for _, seconds in answers)
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    answer: schema.Batch = {"accepted": accepted, "refused": len(data) - accepted, "data": data}
    return answer_json(answer, 202 if accepted == len(data) else 207, headers)


async def _submit(front: Front, headers: Headers, key: str, number: int, line: bytes) -> tuple[schema.Line, int]:
    """What became of a line, and after how many seconds it might be another thing; 0: never."""
    try:
        if len(line) > front.settings.max_body_bytes:
            raise too_large("a line", front.settings.max_body_bytes)
        # No key that a client sends has a tab in it.
        entry = await make_entry(front, headers, parse_submission(line), key and f"{key}\t{number}")
        accepted = await accept(front, entry)
    except Exception as error:
        problem = problem_of(error)
        status = status_of(problem)
        told: schema.LineProblem = {
            "code": problem.code,
            "detail": problem.detail,
            "errors": problem.errors[:MAX_ERRORS],
        }
        answer: schema.Line = {"line": number, "status": status, "id": None, "error": told}
        return answer, retry_after_seconds(problem, status) or 0
    answer = {"line": number, "status": accepted.status, "id": accepted.look.job.id, "error": None}
    if durability := accepted.durability:
        answer["durability"] = durability
    return answer, 0
