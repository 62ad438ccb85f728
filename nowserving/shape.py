"""What is answered, as types: whoever builds it is checked against them, and the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, GetPydanticSchema
from typing_extensions import TypedDict

from nowserving.delivery import DeliveryStatus, Event
from nowserving.job import Lane, Status
from nowserving.parameters import Parameters

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC.")]

Reason = Literal[
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
WhyPending = Literal["retry_backoff", "behind", "no_deliverer"]


class Wait(TypedDict):
    """What a queued job waits for."""

    depth: Annotated[int, Field(description="Jobs that wait for this model.")]
    position: Annotated[int, Field(description="Jobs before it.")]
    estimated_wait_seconds: Annotated[float | None, Field(description="By how long jobs ran lately; null: unknown.")]
    reason: Reason
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


class Failure(TypedDict):
    """Why a job failed."""

    code: Annotated[str, Field(description="Stable; match on this.")]
    message: str
    retryable: Annotated[bool, Field(description="Whether the same job may do better when it is retried.")]


class Urls(TypedDict):
    """Where to go on from here."""

    self: str
    events: str
    cancel: str


class Webhook(TypedDict):
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
    next_attempt_at: Time | None


class Attempt(TypedDict):
    """One HTTP try."""

    at: Time
    status: Annotated[int | None, Field(description="The answer's; null: there was none.")]
    latency_seconds: float
    error: str | None
    answer: Annotated[str, Field(description="The answer's beginning.")]


class Delivery(DeliverySummary):
    """A webhook's delivery, with its last attempts."""

    reason: Annotated[WhyPending | None, Field(description="Why a pending one is not being sent.")]
    job: str
    created_at: Time
    finished_at: Time | None
    attempts: list[Attempt]


class Job(TypedDict):
    """A job, as it stands."""

    id: str
    model: str
    status: Status
    lane: Lane
    attempt: Annotated[int, Field(description="Executions charged to it: of a job that goes well, none.")]
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    queue: Annotated[Wait | None, Field(description="While it is queued.")]
    output: Annotated[Output | None, Field(description="Once it has succeeded, or was stopped after it began.")]
    error: Annotated[Failure | None, Field(description="Once it has failed.")]
    parameters: Annotated[dict[str, Any], GetPydanticSchema(lambda _, handler: handler(Parameters))]
    start_within_seconds: float | None
    timeout_seconds: float
    retain_seconds: float
    metadata: dict[str, str]
    retry_of: Annotated[str | None, Field(description="The job that this one runs anew.")]
    urls: Urls
    webhook: NotRequired[Webhook | None]
    deliveries: NotRequired[Annotated[list[DeliverySummary], Field(description="Of a job that has receivers.")]]
    durability: NotRequired[
        Annotated[
            Literal["confirmed", "unconfirmed"],
            Field(description="In the answer to a submission, where replicas are waited for: whether enough have it."),
        ]
    ]
