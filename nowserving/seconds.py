"""Times in a record: Unix seconds, or how many, as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""What can still be written as a date."""


def read_seconds(value: Any) -> float:
    """A number from 0 to LATEST. Raises ValueError, or TypeError."""
    number = float(value)
    if not 0 <= number <= LATEST:
        raise ValueError(f"{value} is no time")
    return number


def read_optional_seconds(fields: Mapping[str, Any], name: str) -> float | None:
    """The same of a record's field, if it is there."""
    return read_seconds(fields[name]) if name in fields else None
