"""What the store's verbs answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nowserving.delivery import Delivery
from nowserving.job import Job


@dataclass(frozen=True, slots=True)
class Enqueued:
    """`existed`: the job was there already, by its id or its Idempotency-Key; the rest is known of a new job only."""

    job_id: str
    sequence: int
    existed: bool
    created_at: float = 0.0
    position: int = 0
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that now belongs to the claim. `fields` is its raw record: it may be malformed."""

    claim: str
    job_id: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unfit:
    """The queue's head stays, since it needs more tokens than there is room for."""

    job_id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """Nothing is taken: this job, which may have killed its last worker, is to run alone, or does."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Beat:
    """`lost`: claims no longer valid. `strangers`: (claim, job id) held for this worker that it did not name.

    `at` is when Redis answered, by its clock.
    """

    lost: tuple[str, ...]
    strangers: tuple[tuple[str, str], ...]
    at: float


@dataclass(frozen=True, slots=True)
class Wait:
    """What a queued job waits for. `workers` are live workers' own descriptions."""

    position: int
    depth: int
    run_seconds: float | None
    delayed_until: float | None
    workers: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a queued job stands: `position` as in Wait, and when it is due (Unix seconds) if it is delayed."""

    position: int
    delayed_until: float | None


@dataclass(frozen=True, slots=True)
class Look:
    """A job, its wait while it is queued, and what its receivers are told."""

    job: Job
    wait: Wait | None
    deliveries: tuple[Delivery, ...] = ()


@dataclass(frozen=True, slots=True)
class Queue:
    """How a model's queue stands. Times in seconds. `dead`: what was set aside, since it is no job of ours."""

    model: str
    normal: int
    batch: int
    delayed: int
    running: int
    busy: int
    blocked: int
    dead: int
    oldest_wait_seconds: float | None
    run_seconds: float | None

    @property
    def depth(self) -> int:
        """Jobs that wait, in all lanes."""
        return self.normal + self.batch + self.delayed


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one tick did, in jobs. `at` is when Redis answered, by its clock."""

    requeued: int
    failed: int
    expired: int
    forgotten: int
    at: float


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One page of the check: where to go on ('' after the last page), entries looked at, and (kind, of what) mended."""

    cursor: str
    looked: int
    mended: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """How deliveries stand now, and how many attempts and ends of each kind there have been since ever. `line`: those
    that wait till fewer of their host are under way.
    """

    queued: int
    sending: int
    delayed: int
    line: int
    attempts: int
    delivered: int
    dead: int
    stopped: int
