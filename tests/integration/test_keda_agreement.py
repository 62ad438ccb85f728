"""What manifests say of the code: keys, slots, ports, probes and settings are the code's own.

That they run the code's commands is shown with the images, which say the same.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from nowserving import __version__, keys
from nowserving.catalog import load_catalog, parse_catalog
from nowserving.cli import command
from nowserving.cli.port import find_free_port
from nowserving.keda.render import PORT, formula, render
from nowserving.settings import Settings
from nowserving.store import Store
from tests.api_server import ApiServer
from tests.board import MODEL, enqueue, taken_id
from tests.keda.manifest import (
    KEDA,
    OVERLAYS,
    ROOT,
    Manifest,
    build,
    container,
    environment,
    find,
    pods,
    read,
    select,
)
from tests.keda.scaler import redis_scaler
from workers.pod import find_pod
from workers.port import Port


@pytest.fixture(scope="module")
def base() -> list[Manifest]:
    return build(KEDA / "base")


def triggers(scaled: Manifest) -> dict[str, dict[str, str]]:
    return {trigger["name"]: trigger["metadata"] for trigger in scaled["spec"]["triggers"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keda_counts_our_keys_and_divides_by_our_slots(overlay: str) -> None:
    manifests = build(KEDA / "overlays" / overlay)
    catalog = load_catalog(KEDA / "base/models.toml")
    for model in catalog.values():
        scaled = find(manifests, "ScaledObject", f"nowserving-worker-{model.name}")
        assert {name: metadata["listName"] for name, metadata in triggers(scaled).items()} == {
            "queued": keys.queue(model.name),
            "queued_batch": keys.queue(model.name, "batch"),
            "delayed": keys.DELAYED + model.name,
            "running": keys.RUNNING + model.name,
            "busy": keys.BUSY + model.name,
            "blocked": keys.BLOCKED + model.name,
        }
        modifiers = scaled["spec"]["advanced"]["scalingModifiers"]
        assert modifiers["formula"] == formula(model.slots, model.batch_weight)
        assert f"/ {model.slots}" in modifiers["formula"]
    scaled = find(manifests, "ScaledObject", "nowserving-deliverer")
    assert {name: metadata["listName"] for name, metadata in triggers(scaled).items()} == {
        "queued": keys.queue(keys.WEBHOOKS),
        "queued_batch": keys.queue(keys.WEBHOOKS, "batch"),
        "running": keys.RUNNING + keys.WEBHOOKS,
        "busy": keys.BUSY + keys.WEBHOOKS,
    }
    deliverer = find(manifests, "Deployment", "nowserving-deliverer")["spec"]["template"]
    slots = environment(deliverer)["NOWSERVING_WEBHOOK_CONCURRENCY"]
    assert (
        scaled["spec"]["advanced"]["scalingModifiers"]["formula"]
        == f"max(busy, (queued + queued_batch + running) / {slots})"
    )
    assert len(select(manifests, "ScaledObject")) == len(catalog) + 1


def test_each_scaled_object_keeps_to_what_keda_needs(base: list[Manifest]) -> None:
    for scaled in select(base, "ScaledObject"):
        spec = scaled["spec"]
        assert spec["pollingInterval"] == 5
        assert spec["fallback"] == {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"}
        modifiers = spec["advanced"]["scalingModifiers"]
        assert (modifiers["target"], modifiers["activationTarget"]) == ("1", "0")
        assert modifiers["metricType"] == "AverageValue"
        assert set(re.findall(r"[a-z_]{3,}", modifiers["formula"])) - {"max", "ceil"} == set(triggers(scaled))
        for metadata in triggers(scaled).values():
            assert all(isinstance(value, str) for value in metadata.values())
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
        assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
        assert len(scaled["metadata"]["name"]) <= 63 - len("keda-hpa-")


def test_keda_can_count_what_the_store_writes(store: Store) -> None:
    catalog = parse_catalog({"models": {MODEL: {"engine": "noop"}}}, "test")
    (scaled,) = select(read(render(catalog, Settings())), "ScaledObject", "worker")

    look = redis_scaler(store.client)

    def count() -> dict[str, int]:
        return {name: look(metadata["listName"]) for name, metadata in triggers(scaled).items()}

    assert set(count().values()) == {0}
    for lane in ("normal", "normal", "batch"):
        enqueue(store, lane=lane)
    waiting = {"queued": 2, "queued_batch": 1, "delayed": 0, "running": 0, "busy": 0, "blocked": 0}
    assert count() == waiting
    assert taken_id(store, "claim")
    assert count() == waiting | {"queued": 1, "running": 1, "busy": 1}


def test_every_variable_is_a_setting(base: list[Manifest]) -> None:
    fields = {f"NOWSERVING_{name.upper()}" for name in Settings.model_fields}
    named = {name for _, pod in pods(base) for name in environment(pod)}
    named |= set(find(base, "ConfigMap", "nowserving-settings")["data"])
    texts = [file.read_text() for file in [*KEDA.rglob("*.yaml"), *KEDA.rglob("*.env")]]
    named |= {name for text in texts for name in re.findall(r"NOWSERVING_[A-Z_]+[A-Z]", text)}
    ours = {name for name in named if name.startswith("NOWSERVING_")}
    assert len(ours) > 5
    assert ours - {"NOWSERVING_REDIS_PORT"} <= fields  # that one is Kubernetes' own: enableServiceLinks
    assert all(pod["spec"]["enableServiceLinks"] is False for _, pod in pods(base))


def test_who_signs_webhooks_and_who_accepts_them_know_the_secret(base: list[Manifest]) -> None:
    """Without it the API refuses a job that names a webhook and no secret."""
    knows = {
        name
        for name, pod in pods(base)
        if {"secretRef": {"name": "nowserving-webhooks", "optional": True}} in container(pod).get("envFrom", [])
    }
    assert knows == {"nowserving-api", "nowserving-deliverer"}


def test_settings_take_what_the_pods_are_given(base: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    given = find(base, "ConfigMap", "nowserving-settings")["data"]
    worker = environment(find(base, "Deployment", "nowserving-worker-smollm2")["spec"]["template"])
    for name, value in (given | worker).items():
        monkeypatch.setenv(name, value if isinstance(value, str) else "p@ss/word")
    settings = Settings()
    assert settings.redis_url.get_secret_value() == "redis://:p%40ss%2Fword@nowserving-redis:6379/0"
    assert settings.models_file == Path("/etc/nowserving/models.toml")
    assert settings.cache_dir == Path("/cache/nowserving")
    assert settings.worker_port == PORT


def test_ports_and_probes_are_the_codes(base: list[Manifest], shared_api: ApiServer) -> None:
    api = container(find(base, "Deployment", "nowserving-api")["spec"]["template"])
    for probe in ("readinessProbe", "livenessProbe"):
        assert httpx.get(shared_api.url + api[probe]["httpGet"]["path"]).status_code == 200
    assert api["ports"] == [{"name": "http", "containerPort": Settings.model_fields["port"].default}]
    port = Port(find_free_port(), lambda: "", lambda: "", lambda: b"a 1\n")
    for component in ("worker", "deliverer"):
        pod = select(base, "Deployment", component)[0]["spec"]["template"]
        assert container(pod)["ports"] == [{"name": "metrics", "containerPort": PORT}]
        assert environment(pod)["NOWSERVING_WORKER_PORT"] == str(PORT)
        assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(PORT)
        for probe, path in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
            assert container(pod)[probe]["httpGet"] == {"path": f"/health/{path}", "port": "metrics"}
            assert port.answer(f"/health/{path}")[0] == 200
        assert port.answer(pod["metadata"]["annotations"]["prometheus.io/path"])[2] == b"a 1\n"
    port.close()


def test_a_worker_finds_its_pod_by_what_it_is_given_and_a_deliverer_none(
    base: list[Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").touch()
    monkeypatch.setattr("workers.pod.ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # Kubernetes' own, in every pod
    for component in ("worker", "deliverer"):
        pod = select(base, "Deployment", component)[0]["spec"]["template"]
        monkeypatch.delenv("POD_NAME", raising=False)
        monkeypatch.delenv("POD_NAMESPACE", raising=False)
        for name, value in environment(pod).items():
            if name.startswith("POD_"):
                monkeypatch.setenv(name, value["fieldRef"]["fieldPath"])
        found = find_pod(lambda: None, lambda result: None)
        if component == "deliverer":
            assert found is None
        else:
            assert found is not None
            assert "/namespaces/metadata.namespace/pods/metadata.name?" in found.url


def test_a_worker_may_load_as_long_as_the_catalog_says(base: list[Manifest]) -> None:
    model = load_catalog(KEDA / "base/models.toml")["smollm2"]
    deployment = find(base, "Deployment", "nowserving-worker-smollm2")["spec"]
    probe = container(deployment["template"])["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == model.load_seconds
    grace = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert deployment["progressDeadlineSeconds"] > model.load_seconds + grace


def test_redis_keeps_what_it_has_accepted() -> None:
    lines = (KEDA / "base/redis.conf").read_text().splitlines()
    conf = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    started = command.redis_command(Path("redis-server"), 6379, Path("/data"))
    for name in ("appendonly", "appendfsync", "maxmemory-policy"):
        assert conf[name] == started[started.index(f"--{name}") + 1]
    assert conf["save"] == '""'


def test_the_network_lets_through_what_must_pass(base: list[Manifest]) -> None:
    def policy(name: str, way: str) -> tuple[list[Any], set[int]]:
        (rule,) = find(base, "NetworkPolicy", name)["spec"][way]
        return rule.get("from", rule.get("to", [])), {port["port"] for port in rule["ports"]}

    sources, ports = policy("nowserving-redis", "ingress")
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}} in sources
    assert ports == {6379}
    ours = sources[0]["podSelector"]["matchExpressions"][0]["values"]
    assert sorted(ours) == ["api", "deliverer", "worker"]
    assert policy("nowserving-metrics", "ingress")[1] == {8000, PORT}
    assert policy("nowserving-api", "ingress") == ([], {8000})
    assert policy("nowserving-worker", "egress") == ([], {443, 6443})
    receivers, ports = policy("nowserving-deliverer", "egress")
    assert ports == set(Settings.model_fields["webhook_ports"].default)
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(receivers[0]["ipBlock"]["except"])
    assert find(base, "NetworkPolicy", "nowserving-deny")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_versions_are_this_ones() -> None:
    files = [file for file in KEDA.rglob("*.yaml") if "ghcr.io/nowserving" in file.read_text()]
    assert len(files) >= 3
    for file in files:
        for version in re.findall(r"ghcr\.io/nowserving/[a-z-]+:(\S+)", file.read_text()):
            assert version == __version__, file.relative_to(ROOT)
