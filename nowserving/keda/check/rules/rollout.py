"""What happens at an update, and when a node is emptied."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import ceil, floor

from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.field import dig, items, mapping, shorten, text, whole
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.workload import Workload, selects

WORKERS = "strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}"
_NEVER = (0, "0", "0%")


@warning(
    "surge-gpu",
    "an update needs a GPU more than there are",
    why="With maxSurge above 0, and 25 % rounded up is the default, the new pod comes before an old one goes: with "
    "all GPUs in use it stays Pending, and the update with it.",
    fix=WORKERS,
)
def surge_gpu(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workloads:
        rolling = text(workload.manifest.spec, "strategy", "type") in ("", "RollingUpdate")
        surge = dig(workload.manifest.spec, "strategy", "rollingUpdate", "maxSurge")
        if workload.manifest.kind == "Deployment" and workload.has_gpu and rolling and surge not in _NEVER:
            yield Hit(workload.manifest, f"maxSurge is {'25% by default' if surge is None else shorten(surge)}")


@error(
    "rollout-stuck",
    "an update may neither add nor take away a pod",
    why="With maxSurge 0 beside maxUnavailable 0 nothing can move: the API server refuses the Deployment.",
    fix=WORKERS,
)
def rollout_stuck(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workloads:
        rolling = mapping(workload.manifest.spec, "strategy", "rollingUpdate")
        if rolling.get("maxSurge") in _NEVER and rolling.get("maxUnavailable") in _NEVER:
            yield Hit(workload.manifest, "maxSurge and maxUnavailable are both 0")


@warning(
    "image-latest",
    "an image has no fixed version",
    why="A pod that starts later may run other code than its neighbours: a scale-up becomes an update nobody asked "
    "for, and there is nothing to roll back to.",
    fix="a tag of one version, or a digest",
)
def image_latest(cluster: Cluster) -> Iterator[Hit]:
    for workload in [*cluster.processes, *cluster.redises]:
        for container in [*items(workload.pod, "initContainers"), *items(workload.pod, "containers")]:
            image = text(container, "image")
            tag = image.rpartition("/")[2].partition(":")[2]
            if image and "@" not in image and tag in ("", "latest"):
                yield Hit(workload.manifest, f"the image of {shorten(text(container, 'name'))} is {shorten(image)}")


@warning(
    "disruption-blocked",
    "a PodDisruptionBudget allows no eviction",
    why="A node with such a pod cannot be emptied: upgrades of the cluster hang, and the autoscaler never frees the "
    "node.",
    fix="maxUnavailable: 1",
)
def disruption_blocked(cluster: Cluster) -> Iterator[Hit]:
    for budget in cluster.of_kind("PodDisruptionBudget"):
        most, least = dig(budget.spec, "maxUnavailable"), dig(budget.spec, "minAvailable")
        if most in _NEVER or text(least) == "100%":
            yield Hit(budget, f"maxUnavailable is {most}" if least is None else "minAvailable is 100%")
            continue
        for workload in cluster.workloads:
            same = workload.manifest.namespace == budget.namespace
            if least is None or not same or not selects(dig(budget.spec, "selector"), workload.labels):
                continue
            replicas = _fewest(cluster, workload)
            if replicas > 0 and replicas - _count(least, replicas) <= 0:
                said = (
                    f"minAvailable is {shorten(least)}, {shorten(workload.manifest.name)} has {replicas} at its fewest"
                )
                yield Hit(budget, said)


@error(
    "duplicate-key",
    "a key is given twice in one mapping",
    why="Only the last one counts, and tools differ on whether they say so: the first env or args is gone.",
    fix="one of them, with what stood in both",
)
def duplicate_key(cluster: Cluster) -> Iterator[Hit]:
    seen = set()
    for manifest in cluster.manifests:
        for name in manifest.twice:
            if (mark := (manifest.file, id(manifest.twice), name)) not in seen:
                seen.add(mark)
                yield Hit(manifest, f"{shorten(name)} is given twice")


def _fewest(cluster: Cluster, workload: Workload) -> int:
    """The fewest pods it has while it has any."""
    if scaled := cluster.scaler(workload):
        return max(scaled.minimum, 1)
    for hpa in cluster.hpas(workload):
        return whole(hpa.spec, "minReplicas") or 1
    found = whole(workload.manifest.spec, "replicas")
    return 1 if found is None else found


def _count(amount: object, replicas: int, up: bool = True) -> int:
    """A number, or a share of the replicas, rounded as Kubernetes rounds it."""
    if isinstance(amount, int):
        return amount
    if not (found := re.fullmatch(r"(\d{1,3})%", text(amount))):
        return 0
    share = int(found[1]) * replicas / 100
    return ceil(share) if up else floor(share)


RULES = (surge_gpu, rollout_stuck, image_latest, disruption_blocked, duplicate_key)
