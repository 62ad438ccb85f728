"""What a rule is and what it finds. A rule is a pure function of all manifests; its reasons stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.field import shorten
from nowserving.keda.check.manifest import Manifest

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Hit:
    """Where a rule found something, in the words of that place."""

    manifest: Manifest
    what: str
    fix: str = ""
    """What to write instead, if it can be said better than the rule says it for all."""


Check = Callable[[Cluster], Iterator[Hit]]


@dataclass(frozen=True)
class Rule:
    """One thing that bites."""

    id: str
    severity: Severity
    what: str
    why: str
    fix: str
    check: Check


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    rule: Rule
    hit: Hit

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        manifest = self.hit.manifest
        return {
            "file": manifest.file,
            "kind": shorten(manifest.kind),
            "namespace": shorten(manifest.namespace),
            "name": shorten(manifest.name),
            "rule": self.rule.id,
            "severity": self.rule.severity,
            "what": self.hit.what,
            "why": self.rule.why,
            "fix": self.hit.fix or self.rule.fix,
        }


def error(rule_id: str, what: str, *, why: str, fix: str) -> Callable[[Check], Rule]:
    """Makes a function a rule: jobs wait, are lost or are cut off, or the object is refused."""
    return lambda check: Rule(rule_id, "error", what, why, fix, check)


def warning(rule_id: str, what: str, *, why: str, fix: str) -> Callable[[Check], Rule]:
    """Makes a function a rule: it works, but slower or dearer than it need be, or only till something goes wrong."""
    return lambda check: Rule(rule_id, "warning", what, why, fix, check)
