"""What we ship has nothing in it that bites, and that is because it was looked at, not past."""

from __future__ import annotations

from functools import cache

import pytest
import yaml

from nowserving.catalog import parse_catalog
from nowserving.keda.check import find
from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.demand import sound
from nowserving.keda.check.manifest import parse_manifests
from nowserving.keda.render import render
from nowserving.settings import Settings
from tests.keda.manifest import KEDA, OVERLAYS, build
from tests.manifest.planting import rules

FOLDERS = {"base": KEDA / "base"} | {name: KEDA / "overlays" / name for name in OVERLAYS}


@cache
def _built(name: str) -> str:
    return yaml.safe_dump_all(build(FOLDERS[name]))


@pytest.mark.parametrize("name", FOLDERS)
def test_nothing_is_found_in_what_we_ship(name: str) -> None:
    cluster = Cluster(parse_manifests(_built(name), name))
    assert [finding.as_json() for finding in find(cluster)] == []
    assert cluster.ours
    assert all(sound(scaled) and cluster.target(scaled) and cluster.slots(scaled) for scaled in cluster.ours)
    assert {workload.manifest.kind for workload in cluster.redises} == (set() if "redis" in name else {"StatefulSet"})
    assert len(cluster.processes) == len(cluster.workers) + 1


def test_nothing_is_found_in_what_is_rendered() -> None:
    models = {"small": {"engine": "noop", "slots": 8}, "large": {"engine": "noop", "slots": 4, "gpus": 1}}
    catalog = parse_catalog({"models": models}, "a test")
    cluster = Cluster(parse_manifests(render(catalog, Settings()), "rendered"), catalog)
    assert [finding.as_json() for finding in find(cluster)] == []
    assert len(cluster.ours) == 3


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 30", "grace-too-short"),
        ("nowserving:busy:smollm2", "nowserving:bussy:smollm2", "key-unknown"),
        ("max(busy, ", "max(blocked, ", "busy-uncounted"),
        ("maxmemory-policy noeviction", "maxmemory-policy allkeys-lru", "redis-evicts"),
        ("appendonly yes", "appendonly no", "redis-not-durable"),
        ("nowserving-redis.nowserving.svc.cluster.local:6379", "nowserving-redis:6379", "address-short"),
        ("nowserving-redis.nowserving.svc", "nowserving-redis.team-a.svc", "address-other"),
        ("redis://nowserving-redis:6379/0", "rediss://redis.example.com:6380/0", "address-other"),
        ("behavior: currentReplicasIfHigher", "behavior: static", "fallback-shrinks"),
        ("maxSurge: 0", "maxSurge: 1", "surge-gpu"),
        ("redis://nowserving-redis:6379/0", "redis://nowserving-redis:6379/3", "database-other"),
        (
            "redis://nowserving-redis:6379/0",
            "redis://nowserving-redis:6379/0\n  NOWSERVING_LEASE_SECONDS: '99'",
            "lease-over-grace",
        ),
        ("target: '1'", "target: '1.5'", "target-not-whole"),
    ],
)
def test_a_mistake_in_ours_is_found(old: str, new: str, rule: str) -> None:
    text = _built("gpu")
    assert old in text
    assert rule in rules(text.replace(old, new))
