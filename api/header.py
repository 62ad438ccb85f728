"""The request headers that mean something here, read strictly where a misread one would do harm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from api.place import Place
from api.problem import ProblemError

_PREFERENCE = re.compile(r'\s*wait\s*=\s*"?([0-9]{1,9}(?:\.[0-9]{1,9})?)"?\s*(?:;.*)?\Z', re.IGNORECASE)
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}\Z")
_EVENT_ID = re.compile(r"(([0-9]{1,20})-([0-9]{1,20}))(?:\.([0-9]{1,20})\.([0-9]{1,20}))?\Z")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


def read_prefer_wait(values: Iterable[str]) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240), or None; what cannot be understood is ignored, as it says there."""
    for value in values:
        for preference in value.split(","):
            if found := _PREFERENCE.match(preference):
                return float(found[1])
    return None


def read_idempotency_key(headers: Mapping[str, str]) -> str:
    """The Idempotency-Key, or '' if there is none. Raises ProblemError."""
    value = headers.get("idempotency-key")
    if value is None:
        return ""
    if not _IDEMPOTENCY_KEY.match(value):
        raise ProblemError("invalid_header", "Idempotency-Key must be 1 to 255 printable ASCII characters")
    return value


def read_traceparent(values: Sequence[str]) -> str | None:
    """The trace that a request belongs to (https://www.w3.org/TR/trace-context/), or None; a malformed one is ignored,
    and so are several, as it says there.
    """
    return values[0].strip() if len(values) == 1 and _TRACEPARENT.match(values[0].strip()) else None


def read_api_key(headers: Mapping[str, str]) -> str | None:
    """The key of `Authorization: Bearer KEY`, else of `X-API-Key`. Nobody is let in or kept out by it here."""
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key", "").strip() or None


def read_last_event_id(value: str | None) -> Place | str | None:
    """The place that Last-Event-ID names, or None to begin at the first event. Raises ProblemError.

    A stream id alone, as earlier versions gave it, says nothing of what was seen up to it.
    """
    if not value:
        return None
    found = _EVENT_ID.match(value)
    if not found or any(int(part) >= 2**64 for part in found.groups()[1:] if part):
        raise ProblemError(
            "invalid_header", "Last-Event-ID must be the id of an event of this job, such as 1767225600000-0.37.142"
        )
    if found[4] is None:
        return found[1]
    return Place(found[1], int(found[4]), int(found[5]))


def id_before(event_id: str) -> str:
    """The largest possible stream id below this one, so that reading after it begins with this one."""
    milliseconds, sequence = _numbers(event_id)
    if sequence:
        return f"{milliseconds}-{sequence - 1}"
    return f"{milliseconds - 1}-{2**64 - 1}" if milliseconds else "0-0"


def precedes(event_id: str, other_id: str) -> bool:
    """Whether the first stream id lies before the second."""
    return _numbers(event_id) < _numbers(other_id)


def _numbers(event_id: str) -> tuple[int, int]:
    milliseconds, sequence = map(int, event_id.split("-"))
    return milliseconds, sequence
