"""The shapes of what the API answers beside jobs and deliveries (nowserving/shape.py), for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from nowserving.shape import Delivery, Job, Time

Cursor = Annotated[str | None, Field(description="Asks for the page after this one; null: there is none.")]


class JobPage(TypedDict):
    """Kept jobs, newest first."""

    data: list[Job]
    next_cursor: Cursor


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
    oldest_wait_seconds: float | None
    run_seconds: Annotated[float | None, Field(description="How long jobs ran lately.")]


class Queues(TypedDict):
    """All queues, and how much had to be put right, by kind."""

    data: list[Queue]
    mended: dict[str, int]


class Gate(TypedDict):
    """Whether a worker takes jobs, and why not."""

    open: bool
    reason: str | None


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
    state: NotRequired[Literal["loading", "ready", "draining", "failed"]]
    detail: NotRequired[Annotated[str, Field(description="How far it has come, or why it failed.")]]
    slots: NotRequired[int]
    running: NotRequired[int]
    gate: NotRequired[Gate]
    started_at: NotRequired[Time]
    version: NotRequired[str]
    engine: NotRequired[str]
    start_seconds: NotRequired[Annotated[dict[str, float], Field(description="What each phase of its start took.")]]
    memory: NotRequired[Memory]


class WorkerList(TypedDict):
    """All live workers."""

    data: list[Worker]


class Alive(TypedDict):
    """This process serves."""

    status: Literal["ok"]


class Health(Alive):
    """This process serves, and what it last heard of Redis."""

    redis: str
    version: str
