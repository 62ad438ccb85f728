"""Reads manifests of whoever wrote them and says what will bite: `nowserving keda check`."""

from __future__ import annotations

from collections.abc import Iterable

from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.finding import Finding, Rule
from nowserving.keda.check.rules import (
    connection,
    fallback,
    formula,
    key,
    probe,
    redis,
    replica,
    rollout,
    share,
    signal,
    stop,
)

GROUPS = (key, formula, signal, fallback, connection, replica, stop, rollout, probe, share, redis)
RULES: tuple[Rule, ...] = tuple(rule for group in GROUPS for rule in group.RULES)


def find(cluster: Cluster, ignored: Iterable[str] = ()) -> list[Finding]:
    """Everything that bites, in the order of the manifests."""
    left = set(ignored)
    order = {id(manifest): place for place, manifest in enumerate(cluster.manifests)}
    found = [Finding(rule, hit) for rule in RULES if rule.id not in left for hit in rule.check(cluster)]
    return sorted(found, key=lambda finding: order.get(id(finding.hit.manifest), -1))


def document() -> str:
    """The rules of docs/keda-check.md."""
    parts = []
    for group in GROUPS:
        parts.append(f"## {(group.__doc__ or '').strip().splitlines()[0].rstrip('.')}\n")
        for rule in group.RULES:
            parts.append(f"### {rule.id}\n\n{rule.severity.capitalize()}: {rule.what}.\n")
            parts.append(f"**Why** {rule.why}\n\n**Instead** {rule.fix}.\n")
    return "\n".join(parts)
