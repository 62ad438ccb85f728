"""What is answered, as types: most of what builds it is checked against them, and the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, GetPydanticSchema
from typing_extensions import TypedDict

from nowserving.delivery import DeliveryStatus, Event
from nowserving.job import Lane, Status
from nowserving.parameters import STRICT, Parameters

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC.")]

WaitReason = Literal[
    "no_worker",
    "retry_backoff",
    "behind",
    "starting",
    "gpu_memory",
    "ledger",
    "slots",
    "suspect",
    "engine",
    "draining",
]
"""Why a job waits."""
PendingReason = Literal["retry_backoff", "behind", "no_deliverer"]
"""Why a delivery is not being sent."""


Durability = Annotated[
    Literal["confirmed", "unconfirmed"],
    Field(description="In the answer to a submission, where replicas are waited for: whether enough have it."),
]


class JobParameters(Parameters):
    """All parameters, with the seed that was chosen."""

    model_config = STRICT | {"json_schema_serialization_defaults_required": True}


ATTEMPT = "Executions charged to it, of max_attempts at most; refunded by its first token, so mostly 0."


class QueuePosition(TypedDict):
    """What a queued job waits for."""

    depth: Annotated[int, Field(description="Jobs that wait for this model.")]
    position: Annotated[int, Field(description="Jobs before it.")]
    estimated_wait_seconds: Annotated[float | None, Field(description="From how long recent jobs ran; null: unknown.")]
    reason: WaitReason
    explanation: Annotated[str, Field(description="The reason as a sentence.")]


class Usage(TypedDict):
    """What was counted, exactly."""

    prompt_tokens: int
    completion_tokens: int


class Output(TypedDict):
    """What was generated, also by a job that was stopped."""

    text: str
    finish_reason: Literal["stop", "length", "canceled", "timeout"]
    usage: Usage


class JobError(TypedDict):
    """Why a job failed."""

    code: Annotated[str, Field(description="Stable; match on this.")]
    message: str
    retryable: Annotated[bool, Field(description="Whether the same job may do better when it is retried.")]


class Urls(TypedDict):
    """Where to go on from here."""

    self: str
    events: str
    cancel: str


class JobWebhook(TypedDict):
    """The receiver that the job itself named."""

    url: str
    events: list[Event]


class DeliverySummary(TypedDict):
    """How one event on its way to one receiver stands."""

    id: str
    event: str
    receiver: Annotated[str | None, Field(description="Its name in receivers.toml; null: the job's own.")]
    url: str
    status: DeliveryStatus
    attempt_count: Annotated[int, Field(description="Since its birth or its redelivery.")]
    next_attempt_at: Timestamp | None


class Attempt(TypedDict):
    """One HTTP try."""

    at: Timestamp
    status: Annotated[int | None, Field(description="HTTP status of the response; null: none came.")]
    latency_seconds: Annotated[float, Field(description="From its sending to the response, or to the error.")]
    error: str | None
    answer: Annotated[str, Field(description="The beginning of the response's body.")]


class Delivery(DeliverySummary):
    """A webhook's delivery, with its last attempts."""

    reason: Annotated[PendingReason | None, Field(description="Why a pending one is not being sent.")]
    job: Annotated[str, Field(description="The job's id.")]
    created_at: Timestamp
    finished_at: Timestamp | None
    attempts: list[Attempt]


class Job(TypedDict):
    """A job, as it stands."""

    id: str
    model: str
    status: Status
    lane: Lane
    attempt: Annotated[int, Field(description=ATTEMPT)]
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    queue: Annotated[QueuePosition | None, Field(description="While it is queued.")]
    output: Annotated[Output | None, Field(description="Once it has succeeded, or was stopped after it began.")]
    error: Annotated[JobError | None, Field(description="Once it has failed.")]
    parameters: Annotated[dict[str, Any], GetPydanticSchema(lambda _, handler: handler(JobParameters))]
    start_within_seconds: float | None
    timeout_seconds: float
    retain_seconds: float
    metadata: dict[str, str]
    retry_of: Annotated[str | None, Field(description="The job that this one runs anew.")]
    urls: Urls
    webhook: NotRequired[JobWebhook | None]
    deliveries: NotRequired[Annotated[list[DeliverySummary], Field(description="Of a job that has receivers.")]]
    durability: NotRequired[Durability]
