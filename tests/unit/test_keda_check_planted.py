"""A deployment with nothing wrong in it, and one mistake each planted in a copy: it is found, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from nowserving.keda.check import RULES
from nowserving.keda.check.rules.formula import FORMULA
from tests.manifest.planting import GOOD, Edit, check, plant, rules
from tests.manifest.pods import FIRST, POD, PODS, REDIS, SCALED, WORKER, serve
from tests.manifest.scaling import SCALING

PLANTED = [*SCALING, *PODS]


def test_each_rule_has_a_planted_mistake() -> None:
    alone = {"tls-missing", "start-too-long", "duplicate-key"}
    assert {rule.id for rule in RULES} == {rule for rule, _ in PLANTED} | alone
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(("rule", "edits"), PLANTED, ids=[f"{at}-{rule}" for at, (rule, _) in enumerate(PLANTED)])
def test_a_planted_mistake_is_found_and_nothing_else(rule: str, edits: list[Edit]) -> None:
    assert set(rules(plant(*edits))) == {rule}


def test_nothing_is_found_in_what_is_good() -> None:
    assert rules(GOOD.read_text()) == []
    assert rules(plant()) == []


def looking_at(address: str, *edits: Edit) -> list[dict[str, Any]]:
    """The good deployment with these edits, and with all triggers at this address."""
    documents = plant(*edits)
    for body in documents:
        for trigger in body["spec"]["triggers"] if body["kind"] == "ScaledObject" else ():
            trigger["metadata"]["address"] = address
    return documents


def test_tls_of_the_workers_is_wanted_of_the_triggers_too() -> None:
    url = ("ConfigMap/settings", "data.NOWSERVING_REDIS_URL", "rediss://:$(REDIS_PASSWORD)@redis.example.com:6380/0")
    address = "redis.example.com:6380"
    assert set(rules(looking_at(address, url))) == {"tls-missing"}
    parameters = [{"parameter": name, "name": "redis", "key": name} for name in ("password", "tls")]
    there = ("TriggerAuthentication/redis", "spec.secretTargetRef", parameters)
    assert rules(looking_at(address, url, there)) == []


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://redis:6379/0", "redis.ai:6379"),
        ("redis://redis:6379/0", "REDIS.ai.svc.cluster.local.:6379"),
        ("redis://redis.ai.svc/0", "redis.ai.svc.example.org:6379"),
        ("redis://redis-master:6379/0", "redis-headless.ai.svc.cluster.local:6379"),
        ("redis://localhost:6379/0", "redis.ai.svc.cluster.local:6379"),
        ("redis://$(REDIS_HOST):6379/0", "redis.ai.svc.cluster.local:6379"),
        ("redis://10.0.0.7:6379/0", "redis.ai.svc.cluster.local:6379"),
        ("redis://primary.example.com:6379/0", "reader.example.com:6379"),
        ("redis://alias:6379/0", "redis.example.com:6379"),
    ],
)
def test_names_that_may_lead_to_one_redis_are_let_pass(url: str, address: str) -> None:
    alias = {"type": "ExternalName", "externalName": "redis.example.com"}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias", "namespace": "ai"}, "spec": alias}
    edits = [("", "", body), ("ConfigMap/settings", "data.NOWSERVING_REDIS_URL", url)]
    assert rules(looking_at(address, *edits)) == []


def test_a_configuration_file_of_redis_is_read() -> None:
    content = "# ours\nappendonly yes\nappendfsync always\nmaxmemory-policy allkeys-lru\n"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "redis", "namespace": "ai"}}
    mounts = [{"name": "data", "mountPath": "/data"}, {"name": "settings", "mountPath": "/etc/redis"}]
    edits: list[Edit] = [
        ("", "", body | {"data": {"redis.conf": content}}),
        serve("redis-server /etc/redis/redis.conf"),
        (REDIS, f"{FIRST}.volumeMounts", mounts),
        (REDIS, f"{POD}.volumes", [{"name": "settings", "configMap": {"name": "redis"}}]),
    ]
    assert rules(plant(*edits)) == ["redis-evicts"]
    assert rules(plant(*edits[1:])) == [], "a file that is not here says nothing"


def test_what_is_not_ours_is_left_alone() -> None:
    pod = {
        "containers": [{"image": "shop:latest", "livenessProbe": {"exec": {"command": ["celery", "inspect", "ping"]}}}]
    }
    shop = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "shop"},
        "spec": {"template": {"spec": pod}},
    }
    trigger = {
        "type": "redis",
        "metadata": {"address": "redis:6379", "listName": "orders", "activationListLength": "9"},
    }
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "shop"},
        "spec": {"scaleTargetRef": {"name": "shop"}, "triggers": [trigger], "fallback": {"replicas": 0}},
    }
    assert rules([shop, scaled]) == []


@pytest.mark.parametrize(
    ("key", "found"),
    [("app:delayed:mail", False), ("bull:blocked:wait", False), ("busy:smollm2", True), ("Nowserving:busy:a", True)],
)
def test_a_key_of_others_is_not_taken_for_one_of_ours(key: str, found: bool) -> None:
    trigger = {"type": "redis", "metadata": {"address": "redis.shop.svc:6379", "listName": key, "listLength": "5"}}
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "shop"},
        "spec": {"scaleTargetRef": {"name": "shop"}, "maxReplicaCount": 9, "triggers": [trigger]},
    }
    assert ("key-unknown" in rules([scaled])) is found


def test_a_startup_probe_lasts_as_long_as_the_catalog_lets_the_model_load() -> None:
    probe = (WORKER, f"{FIRST}.startupProbe.failureThreshold", 6)
    model = '[models.smollm2]\nsource = "builtin:smollm2"\n'
    said: Edit = ("ConfigMap/models", "data", {"models.toml": f"{model}load_seconds = 600\n"})
    assert rules(plant(probe, said)) == ["startup-too-short"]
    assert rules(plant(probe, ("ConfigMap/models", "data", {"models.toml": model}))) == [], "a default is no word"


@pytest.mark.parametrize("slots", [1, 8, 64])
def test_the_formula_that_is_advised_is_good(slots: int) -> None:
    models = f'[models.smollm2]\nsource = "builtin:smollm2"\nslots = {slots}\n'
    formula = FORMULA.replace("SLOTS", str(slots)).replace("queued_batch", "batch")
    edits: list[Edit] = [
        ("ConfigMap/models", "data", {"models.toml": models}),
        (SCALED, "spec.advanced.scalingModifiers.formula", formula),
    ]
    assert rules(plant(*edits)) == []


def test_another_redis_is_not_ours() -> None:
    cache = plant()[3] | {"metadata": {"name": "cache", "namespace": "ai"}, "spec": {"template": {}}}
    cache["spec"]["template"] = {
        "metadata": {"labels": {"app": "cache"}},
        "spec": {"containers": [{"image": "redis:7"}]},
    }
    assert rules(plant(("", "", cache))) == []


def test_clients_that_will_not_wait_so_long_are_heard() -> None:
    assert rules(plant(), start_within_seconds=300) == ["start-too-long"]
    assert rules(plant(), start_within_seconds=3600) == []
    assert rules(plant((SCALED, "spec.minReplicaCount", 1)), start_within_seconds=300) == []


def test_a_key_given_twice_is_found_once() -> None:
    text = GOOD.read_text().replace("  pollingInterval: 5\n", "  pollingInterval: 5\n  pollingInterval: 5\n", 1)
    assert rules(text) == ["duplicate-key"]


def test_each_finding_says_where_what_why_and_what_instead() -> None:
    [finding] = check(plant((WORKER, f"{POD}.terminationGracePeriodSeconds", 30)))
    said = finding.as_json()
    assert said["file"] == "planted.yaml"
    assert (said["kind"], said["namespace"], said["name"]) == ("Deployment", "ai", "smollm2")
    assert said["what"] == "terminationGracePeriodSeconds is 30, the drain 30 s"
    assert said["fix"] == "terminationGracePeriodSeconds: 45"
    assert "lease" in said["why"]
