"""One entry of a job's event stream: what readers see, and the checkpoint from which another worker goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from nowserving.job import Status

_TERMINAL = frozenset(status.value for status in Status if status.terminal)


@dataclass(frozen=True, slots=True)
class Event:
    """`id` orders a job's events and resumes a reader; `type` is `queued` (again), `started`, `progress` (how
    much of the prompt is read), `restarted` (the text begins anew, at index 0), `token`, or the terminal status.

    `at` is Unix seconds by Redis's clock.
    """

    id: str
    type: str
    at: float
    data: dict[str, Any]

    @property
    def terminal(self) -> bool:
        """Whether it is the last one."""
        return self.type in _TERMINAL

    @classmethod
    def from_entry(cls, entry_id: str, fields: Mapping[str, str]) -> Self:
        """Read a stream entry; one that is none of ours is `unreadable`, so that its reader gets past it."""
        try:
            return cls._read(entry_id, fields)
        except (KeyError, ValueError, RecursionError):
            return cls(entry_id, "unreadable", 0.0, {})

    @classmethod
    def _read(cls, entry_id: str, fields: Mapping[str, str]) -> Self:
        data: dict[str, Any] = {k: v for k, v in fields.items() if k not in ("type", "at")}
        for name in ("index", "attempt", "done", "total"):
            if name in data:
                data[name] = int(data[name])
        if "ids" in data:
            data["ids"] = [int(part) for part in data["ids"].split(",") if part]
        for name in ("output", "error"):
            if name in data:
                data[name] = json.loads(data[name])
        return cls(entry_id, fields["type"], float(fields["at"]), data)


def is_terminal(event_type: str) -> bool:
    """Whether no event follows one of this type."""
    return event_type in _TERMINAL
