"""Whom a ReplicaSet stops first. Follows kubernetes pkg/controller/controller_utils.go ActivePodsWithRanks."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cmp_to_key
from typing import Literal

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


@dataclass(slots=True)
class Pod:
    """What the order rests on. Times are seconds on one clock; None is Kubernetes' zero time."""

    name: str
    node: str = ""
    phase: Literal["Pending", "Unknown", "Running"] = "Pending"
    ready: bool = False
    ready_at: float | None = None
    restarts: int = 0
    created_at: float | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""


def victims(pods: Sequence[Pod], count: int, now: float) -> list[Pod]:
    """The pods to be stopped (getPodsToDelete): of pods on one node with others of the set, those with most first."""
    if count >= len(pods):
        return list(pods)
    on_node = Counter(pod.node for pod in pods)

    def order(a: Pod, b: Pod) -> int:
        return compare(a, b, on_node[a.node], on_node[b.node], now)

    return sorted(pods, key=cmp_to_key(order))[:count]


def compare(a: Pod, b: Pod, rank_a: int, rank_b: int, now: float) -> int:
    """Below 0 if `a` is stopped before `b`, above 0 if after, 0 if nothing tells them apart (Less)."""
    if a.node != b.node and not (a.node and b.node):
        return -1 if not a.node else 1
    if a.phase != b.phase:
        return _PHASES[a.phase] - _PHASES[b.phase]
    if a.ready != b.ready:
        return -1 if b.ready else 1
    if cost(a) != cost(b):
        return cost(a) - cost(b)
    if rank_a != rank_b:
        return rank_b - rank_a
    if a.ready and b.ready and a.ready_at != b.ready_at:
        return _younger(a.ready_at, b.ready_at, a, b, now)
    if a.restarts != b.restarts:
        return b.restarts - a.restarts
    if a.created_at != b.created_at:
        return _younger(a.created_at, b.created_at, a, b, now)
    return 0


def cost(pod: Pod) -> int:
    """GetDeletionCostFromPodAnnotations (pkg/apis/core/helper): what is no plain 32-bit number counts as none."""
    value = pod.annotations.get(DELETION_COST, "0")
    plain = re.fullmatch(r"0|[1-9][0-9]*|-[0-9]+", value)
    return int(value) if plain and -(2**31) <= int(value) < 2**31 else 0


def _younger(time_a: float | None, time_b: float | None, a: Pod, b: Pod, now: float) -> int:
    """The younger first, compared by the logarithm of the age, and by the (random) uid where that is the same."""
    if time_a is None or time_b is None:
        return -1 if time_a is None else 1
    difference = _magnitude(now - time_a) - _magnitude(now - time_b)
    return difference or (a.uid > b.uid) - (a.uid < b.uid)


def _magnitude(age_seconds: float) -> int:
    """Of an age in nanoseconds, as Go's durations are."""
    return int(math.log2(age_seconds * 1e9)) if age_seconds > 0 else -1
