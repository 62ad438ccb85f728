"""YAML with comments, filled with values: a template stays as it is but for `${name}` and `#if name` … `#end`.

A YAML library would lose the comments, and text put into text could be more than one value. So each value stands for
one scalar, or one flow collection, and is written as such.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files

Value = str | int | float | Mapping[str, str]

_VALUE = re.compile(r"\$\{(\w+)\}")
_PLAIN = re.compile(r"[A-Za-z/]([A-Za-z0-9./@:_%-]*[A-Za-z0-9])?\Z")
_WORDS = frozenset(["true", "false", "yes", "no", "on", "off", "null", "y", "n"])
"""What YAML 1.1, which Kubernetes' tools read, takes for something else than these letters."""


def load(name: str) -> str:
    """The template of this name."""
    return (files("nowserving.keda") / "templates" / f"{name}.yaml").read_text()


def fill(template: str, values: Mapping[str, Value]) -> str:
    """The template with these values; an `#if` holds where its value is true. Raises KeyError for an unknown name."""
    lines = []
    holds: list[bool] = []
    for line in template.splitlines():
        word, _, name = line.strip().partition(" ")
        if word == "#if":
            holds.append(bool(values[name]))
        elif word == "#end":
            holds.pop()
        elif all(holds):
            lines.append(_VALUE.sub(lambda match: scalar(values[match[1]]), line))
    assert not holds, "an #if has no #end"
    return "\n".join(lines) + "\n"


def scalar(value: Value) -> str:
    """One value as YAML: plain where that is sure to be read as this text, else as JSON, which YAML reads too."""
    if isinstance(value, str):
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"{value!r} is not printable ASCII")
        if _PLAIN.match(value) and value.lower() not in _WORDS:
            return value
    return json.dumps(value)
