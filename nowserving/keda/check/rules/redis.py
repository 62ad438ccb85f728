"""Whether the Redis keeps what it was given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.field import items, mapping, shorten, text, words
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.workload import Workload

_DATA = ("/data", "/var/lib/redis", "/var/lib/valkey", "/bitnami/redis/data", "/bitnami/valkey/data")


@error(
    "redis-evicts",
    "Redis may evict keys",
    why="When memory is full it deletes jobs that were accepted; API and workers refuse to start on such a Redis.",
    fix="maxmemory-policy noeviction",
)
def redis_evicts(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.redises:
        policy = _configuration(workload).get("maxmemory-policy", "noeviction")
        if policy.lower() != "noeviction":
            yield Hit(workload.manifest, f"maxmemory-policy is {shorten(policy)}")


@error(
    "redis-not-durable",
    "Redis does not write down what it accepts",
    why="Without appendonly a restart loses every job since the last snapshot, with clients holding a 202 for it.",
    fix="appendonly yes, appendfsync always",
)
def redis_not_durable(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.redises:
        settings = _configuration(workload)
        unseen = settings.get("include") or (_file(workload) and not _files(workload))
        if settings.get("appendonly", "no").lower() != "yes" and not unseen:
            yield Hit(workload.manifest, f"appendonly is {shorten(settings.get('appendonly', 'no'))}")


@warning(
    "redis-fsync",
    "Redis writes to the disk later than it answers",
    why="Accepted jobs of the last second are lost with the node; nowserving promises more than that, and accepts "
    "12,000 jobs a second all the same.",
    fix="appendfsync always",
)
def redis_fsync(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.redises:
        settings = _configuration(workload)
        if settings.get("appendonly", "").lower() == "yes" and settings.get("appendfsync", "everysec") != "always":
            yield Hit(
                workload.manifest, f"appendfsync is {shorten(settings.get('appendfsync', 'everysec by default'))}"
            )


@error(
    "redis-cluster",
    "Redis runs in cluster mode",
    why="A job's keys lie in several slots of it, and scripts that touch them all are refused: API and workers do "
    "not start.",
    fix="one Redis, with replicas if you like",
)
def redis_cluster(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.redises:
        if _configuration(workload).get("cluster-enabled", "no").lower() == "yes":
            yield Hit(workload.manifest, "cluster-enabled is yes")


@warning(
    "redis-volume",
    "Redis's data ends with its pod",
    why="An update, an eviction or a lost node takes the pod, and all jobs with it: an append-only file on an "
    "emptyDir is one nobody reads again.",
    fix="a StatefulSet with volumeClaimTemplates for the data folder",
)
def redis_volume(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.redises:
        folder = _configuration(workload).get("dir", "")
        places = {folder} if folder else set(_DATA)
        kept = {text(claim, "metadata", "name") for claim in items(workload.manifest.spec, "volumeClaimTemplates")}
        lost = {"emptyDir", "configMap", "secret", "downwardAPI", "projected"}
        volumes = {text(volume, "name"): volume for volume in items(workload.pod, "volumes")}
        kept |= {name for name, volume in volumes.items() if not lost & set(volume)}
        mounted = {text(mount, "mountPath").rstrip("/"): text(mount, "name") for mount in _mounts(workload)}
        held = [name for place, name in mounted.items() if any(f"{data}/".startswith(f"{place}/") for data in places)]
        if not kept & set(held):
            named = shorten(", ".join(held)) if held else "no volume"
            yield Hit(workload.manifest, f"{shorten(folder or 'the data folder')} is on {named}")


def _mounts(workload: Workload) -> list[dict[str, Any]]:
    return items(workload.redis, "volumeMounts")


def _configuration(workload: Workload) -> Mapping[str, str]:
    """The settings of a Redis, from its configuration file if that is here, and from its arguments."""
    settings: dict[str, str] = {}
    for content in _files(workload):
        for line in content.splitlines():
            name, _, value = line.strip().partition(" ")
            if name and not name.startswith("#"):
                settings[name.lower()] = value.strip().strip("\"'")
    given = " ".join([*words(workload.redis, "command"), *words(workload.redis, "args")])
    for name, value in re.findall(r"--([a-z-]+)[ =]+([^\s-][^\s]*|\"\")", given):
        settings[name] = value.strip("\"'")
    return settings


def _file(workload: Workload) -> str:
    """The configuration file it is started with, or ""."""
    run = " ".join([*words(workload.redis, "command"), *words(workload.redis, "args")])
    found = re.search(r"(/\S+\.conf)\b", run)
    return found[1] if found else ""


def _files(workload: Workload) -> list[str]:
    """The text of that file, if a ConfigMap that is here holds it."""
    path = _file(workload)
    for mount in _mounts(workload) if path else ():
        for volume in items(workload.pod, "volumes"):
            name = text(volume, "configMap", "name")
            data = workload.settings.get((workload.manifest.namespace, name), {})
            if text(volume, "name") == text(mount, "name") and name:
                key = text(mount, "subPath") or path.rpartition("/")[2]
                if key in data and path.startswith(text(mount, "mountPath").rstrip("/")):
                    return [text(mapping(data), key)]
    return []


RULES = (redis_evicts, redis_not_durable, redis_fsync, redis_cluster, redis_volume)
