"""Every error as problem+json (RFC 9457) with a stable `code`; here is known which code has which status."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.openapi import allowed_methods
from nowserving.errors import NowservingError

log = logging.getLogger(__name__)

STATUSES = {
    "invalid_json": 400,
    "job_not_found": 404,
    "delivery_not_found": 404,
    "job_finished": 409,
    "job_not_retryable": 409,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_input": 422,
    "invalid_job_id": 422,
    "invalid_delivery_id": 422,
    "invalid_query": 422,
    "invalid_header": 422,
    "unknown_event_id": 422,
    "unknown_model": 422,
    "idempotency_key_reused": 422,
    "queue_full": 429,
    "redis_unavailable": 503,
    "redis_full": 503,
    "redis_unsuitable": 503,
    "too_many_waiters": 503,
}
"""Any other code is 500: a fault of ours."""

RETRY_AFTER_SECONDS = 1
MAX_ERRORS = 20


class ProblemError(Exception):
    """An answer that refuses. `errors` names fields, each {field, message}. `retryable`: whether the same once more
    may do better, where the status does not say so.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        errors: Iterable[Mapping[str, str]] = (),
        retry_after_seconds: int | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = [dict(error) for error in errors]
        self.retry_after_seconds = retry_after_seconds
        self.retryable = retryable


def field_problem(code: str, field: str, message: str) -> ProblemError:
    """A problem with one field."""
    return ProblemError(code, f"{field}: {message}", [{"field": field, "message": message}])


def status_of(problem: ProblemError) -> int:
    """Its HTTP status."""
    return STATUSES.get(problem.code, 500)


def retry_after_seconds(problem: ProblemError, status: int) -> int | None:
    """When to come back, if that may help."""
    return problem.retry_after_seconds or RETRY_AFTER_SECONDS if status in (429, 503) else None


def answer_problem(
    problem: ProblemError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The HTTP answer; `status` where it is not the code's own."""
    status = status or status_of(problem)
    sent = dict(headers or {})
    if seconds := retry_after_seconds(problem, status):
        sent["Retry-After"] = str(seconds)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": problem.code,
        "detail": problem.detail,
    }
    if problem.errors:
        body["errors"] = problem.errors[:MAX_ERRORS]
    return Response(json.dumps(body), status, sent, "application/problem+json")


def problem_of(error: Exception) -> ProblemError:
    """What to answer to an error of ours, or to a bug, which is logged."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, NowservingError):
        if error.code not in STATUSES:
            log.error("%s: %s", error.code, error.message)
        return ProblemError(error.code, error.message)
    log.error("a request failed", exc_info=error)
    return _bug()


def _bug() -> ProblemError:
    return ProblemError("internal_error", "something went wrong here; the server's log says what")


def answer_error(error: Exception) -> Response:
    """The HTTP answer to an error of ours, or to a bug, which is logged."""
    return answer_problem(problem_of(error))


def _on_error(_: Request, error: Exception) -> Response:
    return answer_error(error)


def _on_bug(_: Request, __: Exception) -> Response:
    return answer_problem(_bug())  # Starlette raises it on, and the server logs it


def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # to nobody


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail, headers = str(error.detail), dict(error.headers or {})
    if status == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}"
        if not request.url.path.startswith("/v1/"):
            detail += "; most is under /v1, which is part of the base URL of OpenAI's clients"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette knows the methods of one route only, and a path may have several.
        headers["Allow"] = allowed_methods(request.app.openapi(), request.url.path) or headers.get("Allow", "")
        detail = f"{request.method} is not allowed at {request.url.path}; allowed: {headers['Allow']}"
    code = status.phrase.lower().replace(" ", "_")
    return answer_problem(ProblemError(code, detail), status, headers)


def _on_invalid_parameter(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"field": str(part["loc"][-1]), "message": str(part["msg"])} for part in error.errors()]
    return answer_problem(ProblemError("invalid_query", f"{errors[0]['field']}: {errors[0]['message']}", errors))


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""
    app.add_exception_handler(ProblemError, _on_error)
    app.add_exception_handler(NowservingError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameter)
    app.add_exception_handler(Exception, _on_bug)
