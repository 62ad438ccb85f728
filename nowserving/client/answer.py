"""The API's answers, typed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from httpx_sse import ServerSentEvent

from nowserving.delivery import DeliveryStatus
from nowserving.event import is_terminal
from nowserving.job import Status


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the API answered it; `raw` is the whole answer."""

    id: str
    model: str
    status: Status
    attempt: int = 0
    created_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    queue: Mapping[str, Any] | None = None
    output: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_of: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def text(self) -> str:
        """What was generated, also until a cancel or a timeout; empty before the end."""
        return str((self.output or {}).get("text", ""))

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Self:
        """Read the API's JSON; unknown fields stay in `raw`."""
        known = {name: answer[name] for name in cls.__dataclass_fields__ if answer.get(name) is not None}
        return cls(**{**known, "status": Status(answer["status"]), "raw": answer})


@dataclass(frozen=True, slots=True)
class BatchLine:
    """What became of a job of a batch: its `id`, or an `error` with `code`, `detail` and `errors`. `status` is the HTTP
    status that it would have been answered with alone, `job_status` the job's.
    """

    line: int
    status: int
    id: str | None
    job_status: Status | None
    error: Mapping[str, Any] | None

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Self:
        """Read the API's JSON."""
        status = answer["job_status"] and Status(answer["job_status"])
        return cls(answer["line"], answer["status"], answer["id"], status, answer["error"])


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first; `next_cursor` asks for those before them."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook on its way: one `event` of one `job` for one receiver. Each of `attempts`, the last ones made, has
    `at`, `status`, `latency_seconds`, `error` and `answer`. While it is pending `reason` says why:
    `retry_backoff`, `behind` (others go first) or `no_deliverer`. `raw` is the whole answer.
    """

    id: str
    job: str
    event: str
    url: str
    status: DeliveryStatus
    receiver: str | None = None
    attempt_count: int = 0
    created_at: str = ""
    next_attempt_at: str | None = None
    finished_at: str | None = None
    attempts: Sequence[Mapping[str, Any]] = ()
    reason: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Self:
        """Read the API's JSON; unknown fields stay in `raw`."""
        known = {name: answer[name] for name in cls.__dataclass_fields__ if answer.get(name) is not None}
        return cls(**{**known, "status": DeliveryStatus(answer["status"]), "raw": answer})


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Some deliveries, newest first; `next_cursor` asks for those before them."""

    deliveries: tuple[Delivery, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What happened to a job: `queued`, `started`, `progress`, `token`, `restarted`, or its terminal status.

    While it waits `queued` comes again when its `position`, `estimated_wait_seconds` or `reason` has changed.
    `progress` says that of a long prompt `done` of `total` tokens are read (`stage`: prefill). Pass over what you do
    not know: more types may come.

    After `restarted` all text so far is void, and the next token has index 0: the engine could not go on where another
    worker had stopped.
    """

    id: str
    type: str
    data: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The new text of a token event."""
        return str(self.data.get("text", "")) if self.type == "token" else ""

    @property
    def terminal(self) -> bool:
        """Whether it is the job's last."""
        return is_terminal(self.type)

    @classmethod
    def from_sse(cls, sse: ServerSentEvent) -> Self:
        """Read one event of the stream."""
        data = json.loads(sse.data)
        return cls(sse.id, sse.event, data if isinstance(data, dict) else {"data": data})
