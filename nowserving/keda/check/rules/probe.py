"""What probes ask: a process about itself, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.field import mapping, shorten, text, whole
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.rules.replica import startup_seconds
from nowserving.keda.check.workload import Container, Workload, probe_command

_NEEDS_REDIS = re.compile(
    r"\b(?:redis-cli|valkey-cli)\b|\bcelery\b.*\b(?:inspect|status|control)\b|\bcontrol\.ping\b|\bredis\.(?:Redis|from_url)"
    r"|\bnowserving (?:queues|workers|jobs|job)\b|/v1/(?:queues|workers|jobs)\b|:6379\b"
)
_RUNS = re.compile(
    r"/v1/(?:responses|chat/completions|completions|embeddings)\b|/generate\b|/predict\b|/infer\b|\bnowserving submit\b"
    r"|-X ?POST\b.*/v1/jobs\b"
)
_LOADING_SECONDS = 600
_PROBES = ("livenessProbe", "readinessProbe")


@error(
    "probe-redis",
    "a probe depends on Redis",
    why="Redis restarting makes every pod fail at once: liveness restarts workers whose models are loaded and jobs "
    "running, readiness takes the API away that would answer 503 with Retry-After, and a pod that is not ready is "
    "stopped first.",
    fix="httpGet on /health of the process itself: on the API its answer is 200 without Redis too",
)
def probe_redis(cluster: Cluster) -> Iterator[Hit]:
    for workload, container, name, probe in _probes(cluster):
        asks = _asks(probe)
        if _NEEDS_REDIS.search(asks) and not _RUNS.search(asks):
            yield Hit(workload.manifest, f"{name} of {shorten(text(container, 'name'))}: {shorten(asks)}")


@error(
    "probe-inference",
    "a probe runs an inference",
    why="It waits behind the jobs there are: under load it times out, and the pod is restarted for being busy.",
    fix="httpGet on the worker's own /health: the heartbeat of its engine and of its renewals",
)
def probe_inference(cluster: Cluster) -> Iterator[Hit]:
    for workload, container, name, probe in _probes(cluster):
        if _RUNS.search(_asks(probe)):
            yield Hit(workload.manifest, f"{name} of {shorten(text(container, 'name'))}: {shorten(_asks(probe))}")


@warning(
    "startup-unbounded",
    "liveness is asked while the model is still loading",
    why="Without a startup probe liveness counts from the container's start: a model that loads longer than its few "
    "failures is killed each time before it is there.",
    fix="startupProbe with the same httpGet, failureThreshold x periodSeconds above the longest load",
)
def startup_unbounded(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workers:
        for container, _ in workload.workers():
            liveness = mapping(container, "livenessProbe")
            period, failures = whole(liveness, "periodSeconds") or 10, whole(liveness, "failureThreshold") or 3
            patience = (whole(liveness, "initialDelaySeconds") or 0) + period * failures
            if liveness and startup_seconds(container) is None and patience < _LOADING_SECONDS:
                yield Hit(workload.manifest, f"{shorten(text(container, 'name'))} is killed after {patience} s")


@warning(
    "startup-too-short",
    "the startup probe gives up before the model is given up",
    why="The catalog lets a model load for load_seconds, its server for start_timeout_seconds; the pod is killed "
    "before, and begins anew.",
    fix="failureThreshold x periodSeconds not below load_seconds and start_timeout_seconds",
)
def startup_too_short(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workers:
        for container, name in workload.workers():
            if not (model := cluster.model(name)) or (given := startup_seconds(container)) is None:
                continue
            wanted: dict[str, float | None] = {"start_timeout_seconds": model.start_timeout_seconds}
            if "load_seconds" in model.model_fields_set:  # else it is a guess of ours
                wanted["load_seconds"] = model.load_seconds
            for said, seconds in wanted.items():
                if seconds is not None and given < seconds:
                    yield Hit(workload.manifest, f"the probe allows {given:g} s, {said} is {seconds:g}")
                    break


def _probes(cluster: Cluster) -> Iterator[tuple[Workload, Container, str, Mapping[str, Any]]]:
    """The probes of the API's and the workers' pods; a Redis among them may ask itself."""
    for workload in cluster.processes:
        for container in workload.containers:
            if container == workload.redis:
                continue
            for name in _PROBES:
                if probe := mapping(container, name):
                    yield workload, container, name, probe


def _asks(probe: Mapping[str, Any]) -> str:
    """What a probe asks, as one line."""
    asked = [probe_command(probe), text(probe, "httpGet", "path")]
    ways = [mapping(probe, way) for way in ("tcpSocket", "httpGet", "grpc")]
    asked += [f"{text(way, 'host')}:{text(way, 'port')}" for way in ways if text(way, "host")]
    return " ".join(part for part in asked if part.strip(": "))


RULES = (probe_redis, probe_inference, startup_unbounded, startup_too_short)
