"""Fields of manifests that others wrote: what is missing or of another type reads as nothing, and never raises."""

from __future__ import annotations

import math
from typing import Any


def dig(value: object, *path: str) -> Any:
    """What stands at the path, or None."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def mapping(value: object, *path: str) -> dict[str, Any]:
    """The mapping at the path without keys that are no strings, or an empty one."""
    found = dig(value, *path)
    return {key: item for key, item in found.items() if isinstance(key, str)} if isinstance(found, dict) else {}


def items(value: object, *path: str) -> list[dict[str, Any]]:
    """The mappings in the list at the path."""
    found = dig(value, *path)
    return [mapping(item) for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def words(value: object, *path: str) -> list[str]:
    """The list of strings at the path; a string alone is a list of one."""
    found = dig(value, *path)
    if isinstance(found, list):
        return [word for item in found if (word := text(item))]
    return [found] if isinstance(found, str) else []


def text(value: object, *path: str) -> str:
    """The string or number at the path as a string, or ""."""
    found = dig(value, *path)
    if isinstance(found, bool):
        return str(found).lower()
    return str(found) if isinstance(found, (str, int, float)) else ""


def whole(value: object, *path: str) -> int | None:
    """The whole number at the path, or None."""
    found = dig(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def number(value: object) -> float | None:
    """A number, or what a string spells as one; None for all else, infinity and the like too."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def shorten(value: object, length: int = 80) -> str:
    """A value in a message: one line, no control characters."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(value)).strip()
    line = " ".join(line.split())
    return line if len(line) <= length else line[: length - 1] + "…"
