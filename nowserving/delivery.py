"""A delivery: one event of one job on its way to one receiver, as Redis keeps it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

from nowserving.errors import RecordError
from nowserving.seconds import read_optional_seconds, read_seconds

WEBHOOKS = "@webhooks"
"""Deliveries are taken as jobs are: this stands where a model's name stands, and no model can be called so."""

Event = Literal["job.started", "job.succeeded", "job.failed", "job.canceled", "job.expired"]
"""What a receiver may be told."""

_ID = re.compile(r"dlv_[0-7][0-9a-hjkmnp-tv-z]{25}_(started|succeeded|failed|canceled|expired)(_[2-8])?\Z")


class DeliveryStatus(StrEnum):
    """Where a delivery stands; the last three are final. `stopped`: its receiver said that it is gone."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    DEAD = "dead"
    STOPPED = "stopped"


RECORDED = {
    "queued": DeliveryStatus.PENDING,
    "running": DeliveryStatus.SENDING,
    "succeeded": DeliveryStatus.DELIVERED,
    "failed": DeliveryStatus.DEAD,
    "canceled": DeliveryStatus.STOPPED,
}
"""The record's words, which are a job's, and ours."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP try: when it began (Unix seconds), the answer's status or the error, how many seconds it took, and the
    answer's beginning.
    """

    at: float
    status: int | None
    seconds: float
    error: str | None = None
    answer: str = ""

    def to_json(self) -> str:
        """As the record's log has it."""
        return json.dumps([self.at, self.status, self.seconds, self.error, self.answer], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, TypeError, OverflowError or RecursionError for what is none."""
        at, status, seconds, error, answer = json.loads(text)
        answered, failed = None if status is None else int(status), None if error is None else str(error)
        return cls(read_seconds(at), answered, read_seconds(seconds), failed, str(answer))


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery's record. `tries` counts the attempts since its birth or the last word to deliver it anew; `attempts`
    are the last ones ever made, but for those that cannot be read, since they decide nothing. Times are Unix seconds by
    Redis's clock.
    """

    id: str
    job_id: str
    event: str
    url: str
    receiver: str | None
    status: DeliveryStatus
    created_at: float
    finished_at: float | None
    next_attempt_at: float | None
    tries: int
    attempts: tuple[Attempt, ...]

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Read a record as the scripts tell it, with `due`. Raises RecordError."""
        try:
            return cls(
                id=fields["id"],
                job_id=fields["job"],
                event=fields["event"],
                url=fields["url"],
                receiver=fields.get("receiver"),
                status=RECORDED[fields["status"]],
                created_at=read_seconds(fields["created_at"]),
                finished_at=read_optional_seconds(fields, "finished_at"),
                next_attempt_at=read_optional_seconds(fields, "due"),
                tries=_count(fields.get("tries", "0")),
                attempts=tuple(_read_log(fields.get("log", ""))),
            )
        except (KeyError, ValueError) as error:
            raise RecordError(f"the record of {fields.get('id', 'a delivery')} cannot be read: {error!r}") from error


def is_delivery_id(text: str) -> bool:
    """Whether `text` has the form of a delivery's id."""
    return _ID.match(text) is not None


def _read_log(text: str) -> Iterator[Attempt]:
    for line in text.split("\n"):
        with suppress(ValueError, TypeError, OverflowError, RecursionError):
            yield Attempt.from_json(line)


def _count(text: str) -> int:
    if (count := int(text)) < 0:
        raise ValueError(f"{text} is no count")
    return count
