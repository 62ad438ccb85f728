"""A deployment with nothing wrong in it, how mistakes are planted in copies of it, and how they are looked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nowserving.catalog import Catalog
from nowserving.keda.check import find
from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.finding import Finding
from nowserving.keda.check.manifest import find_objects, parse_manifests

GOOD = Path(__file__).parent / "good.yaml"
_DOCUMENTS = json.dumps(list(yaml.safe_load_all(GOOD.read_text())))
GONE = object()
"""Takes a field out."""

Edit = tuple[str, str, Any]
"""An object as KIND/NAME, a path in it such as spec.triggers.0.type, and what to set there; no path: a new object."""


def plant(*edits: Edit) -> list[dict[str, Any]]:
    """The good deployment with these edits."""
    documents: list[dict[str, Any]] = json.loads(_DOCUMENTS)
    for place, path, value in edits:
        if not path:
            documents.append(value)
            continue
        kind, _, name = place.partition("/")
        found = next(body for body in documents if body["kind"] == kind and body["metadata"]["name"] == name)
        put(found, path, value)
    return documents


def put(found: Any, path: str, value: Any) -> None:
    """Set, or take out, what stands at a path; in a list it is replaced, or comes to the end."""
    *way, last = path.split(".")
    for step in way:
        found = found[int(step)] if isinstance(found, list) else found.setdefault(step, {})
    if isinstance(found, list):
        found[int(last) : int(last) + 1] = [] if value is GONE else [value]
    elif value is GONE:
        del found[last]
    else:
        found[last] = value


def paths(body: Any, above: str = "") -> Iterator[str]:
    """Every path in an object. Keys with a dot in them have none."""
    parts = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in parts:
        if "." not in str(key):
            yield f"{above}{key}"
            yield from paths(value, f"{above}{key}.")


def check(
    documents: list[dict[str, Any]] | str, catalog: Catalog | None = None, start_within_seconds: float | None = None
) -> list[Finding]:
    """What is found in them."""
    if isinstance(documents, str):
        manifests = parse_manifests(documents, "planted.yaml")
    else:  # as read already: reading takes longer than looking
        manifests = [found for body in documents for found in find_objects(body, "planted.yaml")]
    return find(Cluster(manifests, catalog, start_within_seconds))


def rules(*arguments: Any, **options: Any) -> list[str]:
    """The ids of the rules that found something."""
    return [finding.rule.id for finding in check(*arguments, **options)]
