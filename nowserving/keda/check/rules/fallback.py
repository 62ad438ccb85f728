"""What holds while KEDA cannot read a key."""

from __future__ import annotations

from collections.abc import Iterator

from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.field import shorten, text, whole
from nowserving.keda.check.finding import Hit, error, warning

FIX = "fallback: {failureThreshold: 3, replicas: 1, behavior: currentReplicasIfHigher}"
_KEEP = ("currentReplicas", "currentReplicasIfHigher")


@warning(
    "fallback-missing",
    "there is no fallback",
    why="While Redis does not answer, the HPA has no value and the replicas stand still, for as long as that takes. "
    "A fallback keeps them just the same, never less than a number you choose, and the ScaledObject says that it "
    "is in force.",
    fix=FIX,
)
def fallback_missing(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        if scaled.fallback is None:
            yield Hit(scaled.manifest, "it has no fallback")


@error(
    "fallback-shrinks",
    "the fallback stops busy workers",
    why="With behavior static, the default, a Redis that does not answer for a few polls takes all workers above "
    "fallback.replicas away, in the midst of their jobs.",
    fix=FIX,
)
def fallback_shrinks(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        behavior = text(scaled.fallback, "behavior") or "static"
        handled = behavior == "scalingModifiers" and "??" in scaled.formula
        if scaled.fallback is not None and behavior not in _KEEP and not handled:
            yield Hit(scaled.manifest, f"fallback.behavior is {shorten(behavior)}")


@error(
    "fallback-zero",
    "fallback.replicas is 0",
    why="KEDA takes an error with fallback.replicas 0 for nothing to do, and goes to zero after cooldownPeriod: a "
    "Redis that is away for minutes stops all workers.",
    fix=FIX,
)
def fallback_zero(cluster: Cluster) -> Iterator[Hit]:
    for scaled in cluster.ours:
        if scaled.fallback is not None and not whole(scaled.fallback, "replicas"):
            yield Hit(scaled.manifest, "fallback.replicas is 0 or not set")


RULES = (fallback_missing, fallback_shrinks, fallback_zero)
