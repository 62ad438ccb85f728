"""The body of a POST: read up to its limit, parsed strictly, and what is wrong with it said by field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from api.problem import ProblemError
from nowserving.job import Input, Message, Parameters, Submission
from nowserving.receiver import Webhook

MOST_EXPLAINED = 1000
"""A megabyte can hold half a million wrong values, and a second would go into naming them."""

_SUBMISSION: Mapping[str, type[BaseModel]] = {
    "": Submission,
    "input": Input,
    "parameters": Parameters,
    "messages": Message,
    "webhook": Webhook,
}


def parse_submission(body: bytes) -> Submission:
    """Check a body. Raises ProblemError."""
    try:
        return Submission.model_validate_json(body)
    except ValidationError as error:
        raise explain(error, _SUBMISSION) from None


async def read_body(request: Request, max_bytes: int, media_type: str = "application/json") -> bytes:
    """Read a body that says that it is of that type; no more than `max_bytes` are ever kept.

    Raises ProblemError, or ClientDisconnect.
    """
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent != media_type and not (media_type == "application/json" and sent.endswith("+json")):
        # Anything else a browser would send from any web page, without asking first.
        raise ProblemError("unsupported_media_type", f"send it with the header Content-Type: {media_type}")
    if (encoding := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise ProblemError("unsupported_media_type", f"send it plain, not with Content-Encoding: {encoding[:40]}")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large("the body", max_bytes)
    message = await request.receive()
    body = message.get("body", b"")
    if message.get("more_body"):
        parts, size_bytes = [body], len(body)
        while message.get("more_body"):
            message = await request.receive()
            parts.append(message.get("body", b""))
            size_bytes += len(parts[-1])
            if size_bytes > max_bytes:
                raise too_large("the body", max_bytes)
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if len(body) > max_bytes:
        raise too_large("the body", max_bytes)
    return bytes(body)


def too_large(what: str, max_bytes: int) -> ProblemError:
    """What to answer to more than may be sent."""
    return ProblemError("payload_too_large", f"{what} may have {max_bytes} bytes")


def explain(error: ValidationError, models: Mapping[str, type[BaseModel]]) -> ProblemError:
    """Say which fields are wrong, and what is allowed; `models` by the fields that hold them, "" being the body."""
    if error.error_count() > MOST_EXPLAINED:
        return ProblemError("invalid_input", f"{error.error_count()} values are wrong, which is too many to name them")
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        where = details[0]["msg"].removeprefix("Invalid JSON: ").replace(" at line 1 column ", " at column ")
        return ProblemError("invalid_json", f"this is not JSON: {where}")
    errors = []
    for part in details:
        if part["type"] == "too_short" and any(len(other["loc"]) > len(part["loc"]) for other in details):
            continue  # what stands there is wrong, and was then not counted
        message = part["msg"].removeprefix("Value error, ").replace("Tuple", "List")
        if part["type"] == "extra_forbidden":
            message = f"unknown field; allowed are {', '.join(_fields(part['loc'], models))}"
        errors.append({"field": ".".join(map(str, part["loc"])) or "body", "message": message})
    return ProblemError("invalid_input", f"{errors[0]['field']}: {errors[0]['message']}", errors)


def _fields(place: Sequence[int | str], models: Mapping[str, type[BaseModel]]) -> list[str]:
    """The field names allowed where this unknown one stood."""
    parents = [part for part in place[:-1] if isinstance(part, str)]
    return list(models[parents[-1] if parents else ""].model_fields)


def fingerprint(submission: Submission) -> str:
    """What makes two bodies the same: their values, not their spelling. What is not used does not count, so that an API
    of an earlier version, which does not know it, finds the same.
    """
    values = submission.model_dump(mode="json", exclude={"parameters": set(submission.parameters.unused)})
    if submission.webhook is None:
        del values["webhook"]
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
