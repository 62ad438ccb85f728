"""What can go wrong between a client and the API."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx

from nowserving.errors import NowservingError


class ApiError(NowservingError):
    """The API refused; `code` and `detail` are its problem+json's."""

    def __init__(self, status: int, code: str, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code  # type: ignore[misc]  # every answer brings its own
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class ApiUnreachableError(NowservingError):
    """No answer from the API, however often it was asked."""

    code = "api_unreachable"
    retryable = True


class WaitTimeoutError(NowservingError):
    """The job has not ended within the time given to wait; it goes on."""

    code = "wait_timeout"
    retryable = True


def read_problem(response: httpx.Response) -> ApiError:
    """Read a refusal: problem+json, or whatever a proxy in between made of it."""
    body: dict[str, Any] = {}
    with suppress(ValueError, TypeError):
        body = dict(response.json())
    retry_after_seconds = None
    with suppress(KeyError, ValueError):
        # The header may also be a date (RFC 9110); the API sends seconds.
        retry_after_seconds = max(0.0, float(response.headers["Retry-After"]))
    detail = body.get("detail") or body.get("title") or f"HTTP {response.status_code} {response.reason_phrase}"
    return ApiError(response.status_code, str(body.get("code", "http_error")), str(detail), retry_after_seconds)


def explain_transport(base_url: str, error: httpx.TransportError) -> ApiUnreachableError:
    """Say in one of our errors that no answer came."""
    return ApiUnreachableError(f"no answer from {base_url}: {str(error) or type(error).__name__}")
