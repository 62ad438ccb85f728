"""Many jobs in one body: a line of JSON each, accepted or refused line by line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request, Response
from starlette.datastructures import Headers

from api import schema
from api.accept import accept, make_entry
from api.answer import answer_json
from api.body import parse_submission, read_body, too_large
from api.front import Front, front_of
from api.header import read_idempotency_key
from api.openapi import BATCH, BATCH_ANSWERS
from api.problem import STATUSES, ProblemError, problem_of, retry_after_seconds, status_of
from nowserving.errors import StoreUnavailableError

MEDIA_TYPE = "application/x-ndjson"
MAX_JOBS = 10_000
MAX_LINES = 2 * MAX_JOBS
"""Empty ones, too."""
MAX_ERRORS_A_LINE = 3
"""More would make an answer longer than the body."""
PASSING = frozenset(code for code, status in STATUSES.items() if status in (429, 503))
BYTES_AT_ONCE = 1 << 18
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
    """Accept many jobs, each as POST /v1/jobs would: 202 if all were, 207 if some, and what became of each line; if
    none was, the problem of one of them.

    With an `Idempotency-Key` the same body makes the same jobs, however often it is sent: what was refused for want of
    room is accepted when there is some.
    """
    front = front_of(request)
    key = read_idempotency_key(request.headers)
    body = await read_body(request, front.settings.max_batch_bytes, MEDIA_TYPE)
    if body.count(b"\n") > MAX_LINES:
        raise ProblemError("payload_too_large", f"a batch may have {MAX_LINES} lines; no job was accepted")
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise ProblemError("invalid_input", "the body has no job: send one a line, as JSON")
    if len(lines) > MAX_JOBS:
        raise ProblemError(
            "payload_too_large", f"a batch may have {MAX_JOBS} jobs, not {len(lines)}; none was accepted"
        )
    await front.pulse.ensure()
    answers: list[tuple[schema.Line, int]] = []
    away: tuple[schema.Line, int] | None = None
    for part in _in_parts(lines):
        if away:  # each further part would wait for Redis as long as the first one did
            answers += [({**away[0], "line": number}, away[1]) for number, _ in part]
            continue
        told = await asyncio.gather(*(_submit(front, request.headers, key, *line) for line in part))
        away = next((answer for answer in told if _is_away(answer[0])), None)
        answers += told
    data = [line for line, _ in answers]
    accepted = sum(line["error"] is None for line in data)
    retry_after = max(seconds for _, seconds in answers)
    if not accepted:
        raise _refuse(data, retry_after)
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    answer: schema.Batch = {"accepted": accepted, "refused": len(data) - accepted, "data": data}
    return answer_json(answer, 202 if accepted == len(data) else 207, headers)


def _in_parts(lines: Sequence[tuple[int, bytes]]) -> Iterator[Sequence[tuple[int, bytes]]]:
    part: list[tuple[int, bytes]] = []
    size_bytes = 0
    for number, line in lines:
        if part and (len(part) == LINES_AT_ONCE or size_bytes + len(line) > BYTES_AT_ONCE):
            yield part
            part, size_bytes = [], 0
        part.append((number, line))
        size_bytes += len(line)
    yield part


def _is_away(line: schema.Line) -> bool:
    return line["error"] is not None and line["error"]["code"] == StoreUnavailableError.code


def _refuse(data: Sequence[schema.Line], retry_after_seconds: int) -> ProblemError:
    """What to answer if no line was accepted."""
    errors = [(f"line {line['line']}", line["error"]) for line in data if line["error"]]
    # What may pass is what a client should go by: sent again, those lines may be accepted.
    passing = (entry for entry in errors if entry[1]["code"] in PASSING)
    where, first = next(passing, errors[0])
    details = [{"field": number, "message": error["detail"]} for number, error in errors]
    detail = f"none of {len(data)} lines was accepted; {where}: {first['detail']}"
    return ProblemError(first["code"], detail, details, retry_after_seconds or None)


async def _submit(front: Front, headers: Headers, key: str, number: int, line: bytes) -> tuple[schema.Line, int]:
    """What became of a line, and after how many seconds it might be another thing; 0: never."""
    try:
        if len(line) > front.settings.max_body_bytes:
            raise too_large("a line", front.settings.max_body_bytes)
        # No key that a client sends has a tab in it.
        entry = await make_entry(front, headers, parse_submission(line), key and f"{key}\t{number}")
        accepted = await accept(front, entry)
    except Exception as error:
        return _tell(number, problem_of(error))
    job = accepted.look.job
    answer: schema.Line = {
        "line": number,
        "status": accepted.status,
        "id": job.id,
        "job_status": job.status,
        "error": None,
    }
    if durability := accepted.durability:
        answer["durability"] = durability
    return answer, 0


def _tell(number: int, problem: ProblemError) -> tuple[schema.Line, int]:
    """Of a line that was refused. (A frame that has raised the problem, and keeps it, would be garbage in a cycle.)"""
    status = status_of(problem)
    told: schema.LineProblem = {
        "code": problem.code,
        "detail": problem.detail,
        "errors": problem.errors[:MAX_ERRORS_A_LINE],
    }
    line: schema.Line = {"line": number, "status": status, "id": None, "job_status": None, "error": told}
    return line, retry_after_seconds(problem, status) or 0
