"""A call of a script: what is sent, how the answer reads, and the small conversions both need."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nowserving.delivery import Delivery
from nowserving.errors import RecordError

T = TypeVar("T")
Args = tuple[str | int | float, ...]
Reply = Any
"""What redis-py makes of a script's answer: lists of str, int and lists."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One script, its arguments after `now`, and the reading of its answer."""

    script: str
    args: Args
    parse: Callable[[Reply], T]


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """A hash, as Redis lays it out in a list."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def read_said(text: str) -> dict[str, Any]:
    """What a worker says of itself, or nothing where that is not what a worker says."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    gate = said.get("gate") or {} if isinstance(said, dict) else None
    if not isinstance(gate, dict) or not isinstance(gate.get("reason") or "", str):
        return {}
    return said if all(isinstance(said.get(name, 0), int) for name in ("slots", "running")) else {}


def read_deliveries(reply: Reply) -> list[Delivery]:
    """Deliveries as the scripts tell them. Unreadable records are left out."""
    deliveries = []
    for fields in reply:
        with suppress(RecordError):
            deliveries.append(Delivery.from_fields(pairs(fields)))
    return deliveries


def csv(ids: Sequence[int]) -> str:
    """Token ids as the scripts take them."""
    return ",".join(map(str, ids))


def or_empty(number: float | None) -> str | float:
    """A number, or '' where there is none."""
    return "" if number is None else number


def to_float(text: str) -> float | None:
    """The number of a script's answer; None for ''."""
    return float(text) if text else None


def to_sequence(job_id: str, text: str) -> int:
    """A record's sequence as Redis has it. Raises RecordError: a stranger may have been at it."""
    if not text.isdecimal():
        raise RecordError(f"the record of {job_id} cannot be read: its sequence is {text[:40]!r}")
    return int(text)
