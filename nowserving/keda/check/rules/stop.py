"""Whether a worker that is told to stop can finish or hand back its jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.field import mapping, shorten, text, whole, words
from nowserving.keda.check.finding import Hit, error, warning
from nowserving.keda.check.workload import Workload, probe_command

MARGIN_SECONDS = 15
"""For handing back and the way out."""
_SLEEP = re.compile(r"\bsleep (\d+(?:\.\d+)?)\b")
_SHELL = re.compile(r"(?:^|/)(?:ba|da|a|z)?sh$")


@error(
    "grace-too-short",
    "the pod is killed before its drain is over",
    why="A worker that is stopped lets jobs finish for NOWSERVING_DRAIN_SECONDS and hands back the rest. Killed "
    "within that time it hands back nothing: its jobs stand still till their lease is over, and go on from the "
    "last checkpoint at best.",
    fix="terminationGracePeriodSeconds: the drain and 15 s",
)
def grace_too_short(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workers:
        drain = _setting(workload, "drain_seconds")
        if drain is not None and workload.grace_seconds <= drain:
            said = f"terminationGracePeriodSeconds is {workload.grace_seconds}, the drain {drain:g} s"
            yield Hit(workload.manifest, said, f"terminationGracePeriodSeconds: {int(drain) + MARGIN_SECONDS}")


@error(
    "prestop-eats-grace",
    "a preStop hook takes the time that the drain needs",
    why="The grace period runs during the hook too, and the worker hears nothing till that is over.",
    fix="no preStop hook: a worker that hears SIGTERM takes nothing more",
)
def prestop_eats_grace(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workers:
        drain = _setting(workload, "drain_seconds")
        hook = max((_hook_seconds(container) for container in workload.own), default=0.0)
        if drain is not None and hook and workload.grace_seconds > drain >= workload.grace_seconds - hook:
            left = f"{workload.grace_seconds - hook:g} s of {workload.grace_seconds}"
            yield Hit(workload.manifest, f"preStop sleeps {hook:g} s and leaves {left} for a drain of {drain:g} s")


@warning(
    "lease-over-grace",
    "the lease is longer than the grace period",
    why="A worker killed at the end of its grace has jobs that nobody may take until their lease is over, and one "
    "that lost Redis stops by its own clock only then: longer than the pod lives.",
    fix="NOWSERVING_LEASE_SECONDS below terminationGracePeriodSeconds; 15 is the default",
)
def lease_over_grace(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workers:
        lease, drain = _setting(workload, "lease_seconds"), _setting(workload, "drain_seconds")
        if lease is not None and lease > workload.grace_seconds > (drain or 0):
            yield Hit(workload.manifest, f"the lease is {lease:g} s, the grace period {workload.grace_seconds}")


@warning(
    "leases-differ",
    "processes do not agree on the lease",
    why="After Redis was away, whoever reaps gives the workers one lease of its own to be heard again: with a "
    "shorter one than theirs, jobs that run are taken from workers that live; with a longer one, lost jobs wait.",
    fix="one ConfigMap with NOWSERVING_LEASE_SECONDS for the API and all workers",
)
def leases_differ(cluster: Cluster) -> Iterator[Hit]:
    found: dict[str, tuple[float, Workload]] = {}
    for workload in cluster.processes:
        lease = _setting(workload, "lease_seconds")
        if lease is None:
            continue
        first, other = found.setdefault(workload.manifest.namespace, (lease, workload))
        if first != lease:
            yield Hit(workload.manifest, f"{lease:g} s here, {first:g} s in {shorten(other.manifest.name)}")


@warning(
    "shell-keeps-sigterm",
    "a shell stands between Kubernetes and the worker",
    why="SIGTERM goes to the shell, which does not pass it on: the worker hears nothing, and is killed with its "
    "jobs when the grace period is over.",
    fix="exec before the last command of the script, or the command itself as a list",
)
def shell_keeps_sigterm(cluster: Cluster) -> Iterator[Hit]:
    for workload in cluster.workers:
        for container in workload.own:
            run = [*words(container, "command"), *words(container, "args")]
            script = run[2] if len(run) > 2 and _SHELL.search(run[0]) and run[1].startswith("-") else ""
            lines = [line for line in re.split(r"\n|;|&&|\|\|?", script) if line.strip()]
            if len(lines) > 1 and not re.search(r"(?:^|[\s;&|])exec\s", script):
                yield Hit(workload.manifest, f"{shorten(text(container, 'name'))} runs {shorten(' '.join(run))}")


def _setting(workload: Workload, name: str) -> float | None:
    """The greatest of its workers' values; None if one of them is not to be seen here."""
    found = [workload.setting(container, name) for container in workload.own]
    seen = [value for value in found if value is not None]
    return max(seen) if seen and len(seen) == len(found) else None


def _hook_seconds(container: Mapping[str, Any]) -> float:
    hook = mapping(container, "lifecycle", "preStop")
    slept = sum(float(found) for found in _SLEEP.findall(probe_command(hook)))
    return (whole(hook, "sleep", "seconds") or 0) + slept


RULES = (grace_too_short, prestop_eats_grace, lease_over_grace, leases_differ, shell_keeps_sigterm)
