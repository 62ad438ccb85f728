"""The schemas of what the API answers beside jobs and deliveries (nowserving/schema.py)."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from nowserving.job import Status
from nowserving.schema import Delivery, Durability, Job, Timestamp

Cursor = Annotated[str | None, Field(description="Asks for the page after this one; null: there is none.")]


class JobPage(TypedDict):
    """Kept jobs, newest first."""

    data: list[Job]
    next_cursor: Cursor


class LineProblem(TypedDict):
    """Why a line's job was not accepted."""

    code: Annotated[str, Field(description="Stable; match on this.")]
    detail: Annotated[str, Field(description="What was wrong, and what is allowed.")]
    errors: list[dict[str, str]]


class Line(TypedDict):
    """What became of a line."""

    line: Annotated[int, Field(description="Its number in the body, from 1.")]
    status: Annotated[int, Field(description="As if it had been sent alone: 202, 422, 429 …; 200: the job has ended.")]
    id: Annotated[str | None, Field(description="The job's id; null: there is none.")]
    job_status: Annotated[Status | None, Field(description="The job's, which is an earlier one if it has ended.")]
    error: LineProblem | None
    durability: NotRequired[Durability]


class Batch(TypedDict):
    """What became of each line that has a job, in their order."""

    accepted: int
    refused: int
    data: list[Line]


class DeliveryList(TypedDict):
    """A job's deliveries."""

    data: list[Delivery]


class DeliveryPage(TypedDict):
    """Kept deliveries, newest first."""

    data: list[Delivery]
    next_cursor: Cursor


class Model(TypedDict):
    """A model of the catalog, as OpenAI describes one, and more."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Field(description="Unix seconds.")]
    owned_by: str
    engine: str
    slots: Annotated[int, Field(description="Jobs that a worker runs at once.")]
    max_new_tokens: int


class ModelList(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class Queue(TypedDict):
    """How a model's queue stands, in jobs and workers."""

    model: str
    depth: Annotated[int, Field(description="Jobs that wait: normal, batch and delayed ones.")]
    normal: int
    batch: int
    delayed: Annotated[int, Field(description="They wait for their next try.")]
    running: int
    workers: int
    busy: Annotated[int, Field(description="Workers that run a job.")]
    blocked: Annotated[int, Field(description="Workers that are full, of memory or of slots.")]
    dead: Annotated[int, Field(description="What stood in the model's keys and is no job.")]
    oldest_wait_seconds: Annotated[float | None, Field(description="How long the oldest waits; null: none does.")]
    run_seconds: Annotated[float | None, Field(description="How long recent jobs ran, on average; null: unknown.")]


class QueueList(TypedDict):
    """All queues, and how much had to be put right, by kind."""

    data: list[Queue]
    mended: dict[str, int]


class Gate(TypedDict):
    """Whether a worker takes jobs, and why not."""

    open: bool
    reason: Annotated[
        str | None,
        Field(description="`gpu_memory`, `ledger`, `slots`, `suspect`, `engine` or `draining`; null: it is open."),
    ]


class Memory(TypedDict, total=False):
    """A worker's memory."""

    used_bytes: int
    limit_bytes: int
    room_bytes: int
    promised_bytes: int
    budget_bytes: int


class Worker(TypedDict):
    """What a live worker says of itself; one of another version may say less, or more."""

    name: str
    model: Annotated[str, Field(description="`@webhooks`: it is a deliverer.")]
    state: NotRequired[Annotated[str, Field(description="`loading`, `ready`, `draining` or `failed`.")]]
    detail: NotRequired[Annotated[str, Field(description="How far it has come, or why it failed.")]]
    slots: NotRequired[int]
    running: NotRequired[int]
    gate: NotRequired[Gate]
    started_at: NotRequired[Timestamp]
    version: NotRequired[str]
    engine: NotRequired[str]
    start_seconds: NotRequired[Annotated[dict[str, float], Field(description="What each phase of its start took.")]]
    memory: NotRequired[Memory]


class WorkerList(TypedDict):
    """All live workers."""

    data: list[Worker]


class Liveness(TypedDict):
    """This process serves."""

    status: Literal["ok"]


class Health(Liveness):
    """This process serves, and what it last heard of Redis."""

    redis: Annotated[str, Field(description="`ok`, `unavailable`, or `unsuitable: …`, as of a second ago.")]
    version: str
