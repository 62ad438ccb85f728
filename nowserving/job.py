"""The job: what a client submits, the record it becomes, the statuses it may pass through. Pure: no clock, no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any, Self, overload

from pydantic import BaseModel, Field, StringConstraints, ValidationError
from ulid import ULID

from nowserving.errors import InvalidInputError, JobNotRetryableError, RecordError
from nowserving.input import Input as Input
from nowserving.input import Message as Message
from nowserving.parameters import STRICT
from nowserving.parameters import Parameters as Parameters
from nowserving.receiver import Receiver, Webhook, read_receivers, write_receivers
from nowserving.seconds import read_optional_seconds, read_seconds

VERSION = 3
"""The record's format, its field `v`. Code of version N reads N-1; a job of a newer version stays queued. A record
says the oldest version that can read it: 2 only if its parameters are used that came with 2, 3 if it has receivers.
"""

_ID = re.compile(r"job_[0-7][0-9a-hjkmnp-tv-z]{25}\Z")


class Status(StrEnum):
    """Where a job stands; the last four are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows this status."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELED, Status.EXPIRED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
    Status.EXPIRED: frozenset(),
}
"""What may follow what; the Lua scripts enforce it."""


class Lane(StrEnum):
    """`batch` is taken only while no `normal` job waits."""

    NORMAL = "normal"
    BATCH = "batch"


def new_job_id() -> str:
    """Make an id that sorts by time: `job_` and a ULID in lower case (https://github.com/ulid/spec)."""
    return "job_" + str(ULID()).lower()


def job_id_of_uuid(uuid: str) -> str:
    """Spell a UUID (a Celery task's id) as a job id: the same 128 bits in the ULID's alphabet.

    Raises InvalidInputError if it is neither a UUID nor a job id.
    """
    if is_job_id(uuid):
        return uuid
    try:
        return "job_" + str(ULID.from_bytes(bytes.fromhex(uuid.replace("-", "")))).lower()
    except ValueError:
        raise InvalidInputError(f"task id {uuid!r} is neither a UUID nor a job id") from None


def is_job_id(text: str) -> bool:
    """Whether `text` has the form of a job id."""
    return _ID.match(text) is not None


@overload
def rfc3339(unix_seconds: float) -> str: ...
@overload
def rfc3339(unix_seconds: None) -> None: ...
@overload
def rfc3339(unix_seconds: float | None) -> str | None: ...
def rfc3339(unix_seconds: float | None) -> str | None:
    """Format Unix seconds as RFC 3339 UTC with milliseconds."""
    if unix_seconds is None:
        return None
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
StartWithin = Annotated[float, Field(gt=0, le=30 * 86400)]
Timeout = Annotated[float, Field(gt=0, le=86400)]
Retention = Annotated[float, Field(ge=1, le=30 * 86400)]
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]


class Submission(BaseModel):
    """The body of POST /v1/jobs."""

    model_config = STRICT

    model: ModelName
    input: Input
    parameters: Parameters = Field(default_factory=Parameters)
    lane: Annotated[Lane, Field(strict=False)] = Lane.NORMAL
    start_within_seconds: StartWithin | None = None
    timeout_seconds: Timeout = 600
    retain_seconds: Retention = 86400
    metadata: Metadata = {}
    webhook: Webhook | None = None


TEMPLATE_TOKENS = 256
MESSAGE_TOKENS = 16


def tokens_at_most(job_input: Input, max_new_tokens: int) -> int:
    """Bound a job's tokens, prompt and new ones, without its tokenizer.

    A byte-level or byte-fallback tokenizer makes at most one token of a byte; chat templates add a preamble and a
    few tokens a message. A worker that finds more (it counts exactly before it starts) corrects the record.
    """
    messages = len(job_input.messages or [])
    template = TEMPLATE_TOKENS + MESSAGE_TOKENS * messages if messages else 1
    return job_input.size_bytes + template + max_new_tokens


@dataclass(frozen=True, slots=True)
class Job:
    """A job's record as Redis keeps it. Times are Unix seconds by Redis's clock."""

    id: str
    model: str
    status: Status
    lane: Lane
    sequence: int
    input: Input
    parameters: Parameters
    tokens: int
    created_at: float
    timeout_seconds: float
    retain_seconds: float
    start_by: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    ran_seconds: float = 0.0
    attempt: int = 0
    takes: int = 0
    generated: int = 0
    worker: str | None = None
    output: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    start_within_seconds: float | None = None
    retry_of: str | None = None
    receivers: tuple[Receiver, ...] = ()
    traceparent: str | None = None
    v: int = VERSION

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Read a record. Raises RecordError if it is not one this version can read."""
        try:
            return cls(
                id=fields["id"],
                model=fields["model"],
                status=Status(fields["status"]),
                lane=Lane(fields["lane"]),
                sequence=int(fields["sequence"]),
                input=Input.model_validate_json(fields["input"]),
                parameters=Parameters.model_validate_json(fields["parameters"]),
                tokens=int(fields["tokens"]),
                created_at=read_seconds(fields["created_at"]),
                timeout_seconds=read_seconds(fields["timeout_seconds"]),
                retain_seconds=read_seconds(fields["retain_seconds"]),
                start_by=read_optional_seconds(fields, "start_by"),
                started_at=read_optional_seconds(fields, "started_at"),
                finished_at=read_optional_seconds(fields, "finished_at"),
                ran_seconds=read_seconds(fields.get("ran_seconds", "0")),
                attempt=int(fields.get("attempt", 0)),
                takes=int(fields.get("takes", 0)),
                generated=int(fields.get("generated", 0)),
                worker=fields.get("worker"),
                output=_object(fields["output"]) if "output" in fields else None,
                error=_object(fields["error"]) if "error" in fields else None,
                metadata=_object(fields.get("metadata", "{}")),
                start_within_seconds=read_optional_seconds(fields, "start_within_seconds"),
                retry_of=fields.get("retry_of"),
                receivers=read_receivers(fields["webhook"]) if "webhook" in fields else (),
                traceparent=fields.get("traceparent"),
                v=int(fields["v"]),
            )
        except (KeyError, ValueError, RecursionError) as error:
            raise RecordError(f"the record of {fields.get('id', 'a job')} cannot be read: {error!r}") from error

    def to_submission(self) -> Submission:
        """The same job once more, as a client would submit it: its seed is kept.

        Raises JobNotRetryableError, or RecordError if no client could have submitted it.
        """
        if not self.status.terminal or self.status is Status.SUCCEEDED:
            raise JobNotRetryableError(
                f"{self.id} is {self.status}; what may be retried has failed, expired or been canceled"
            )
        try:
            return Submission(
                model=self.model,
                input=self.input,
                parameters=self.parameters,
                lane=self.lane,
                start_within_seconds=self.start_within_seconds,
                timeout_seconds=self.timeout_seconds,
                retain_seconds=self.retain_seconds,
                metadata=self.metadata,
            )
        except ValidationError as error:
            raise RecordError(f"the record of {self.id} cannot be submitted again: {error!r}") from error


def fields_of(
    submission: Submission,
    seed: int,
    retry_of: str | None = None,
    receivers: tuple[Receiver, ...] = (),
    traceparent: str | None = None,
) -> dict[str, str]:
    """Lay a submission out as the record's first fields; `seed` is used where the client named none.

    `receivers` are who is called back, whatever the submission's own webhook says.
    """
    parameters = submission.parameters
    if parameters.seed is None:
        parameters = parameters.model_copy(update={"seed": seed})
    fields = {
        "v": str(3 if receivers else parameters.version),
        "model": submission.model,
        "lane": submission.lane.value,
        "input": submission.input.model_dump_json(exclude_none=True),
        "parameters": parameters.model_dump_json(exclude=set(parameters.unused)),
        "tokens": str(tokens_at_most(submission.input, parameters.max_new_tokens)),
        "timeout_seconds": repr(submission.timeout_seconds),
        "retain_seconds": repr(submission.retain_seconds),
    }
    if submission.metadata:
        fields["metadata"] = json.dumps(submission.metadata)
    if submission.start_within_seconds is not None:
        fields["start_within_seconds"] = repr(submission.start_within_seconds)
    if retry_of is not None:
        fields["retry_of"] = retry_of
    if receivers:
        fields["webhook"] = write_receivers(receivers)
    if traceparent is not None:
        fields["traceparent"] = traceparent
    return fields


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if not isinstance(value, dict):
        raise ValueError(f"{text[:40]} is no JSON object")
    return value


def _finite(text: str) -> float:
    """JSON has no other numbers, and an answer with one could not be read."""
    if not isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is no number of JSON")
    return number
