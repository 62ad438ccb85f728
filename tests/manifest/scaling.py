"""Mistakes in ScaledObjects: the rule that finds each, and what is edited."""

from __future__ import annotations

from typing import Any

from tests.manifest.planting import GONE, Edit

SCALED = "ScaledObject/smollm2"
WORKER = "Deployment/smollm2"
TRIGGER = "spec.triggers.0"
META = f"{TRIGGER}.metadata"
MODIFIERS = "spec.advanced.scalingModifiers"
ADDRESS = "redis.ai.svc.cluster.local:6379"


def _formula(formula: str) -> Edit:
    return SCALED, f"{MODIFIERS}.formula", formula


def _triggers(*names: str, model: str = "smollm2", **more: object) -> Edit:
    """These triggers and no other."""
    place = {"queued": "queue:{}", "batch": "queue:{}:batch"}
    found = []
    for name in names:
        key = "nowserving:" + place.get(name, name + ":{}").format(model)
        meta = {"address": ADDRESS, "listName": key} | more
        found.append({"type": "redis", "name": name, "metadata": meta, "authenticationRef": {"name": "redis"}})
    return SCALED, "spec.triggers", found


def _prometheus() -> dict[str, Any]:
    meta = {"serverAddress": "http://prometheus.monitoring.svc:9090", "query": "sum(nowserving_queue_depth)"}
    return {"type": "prometheus", "name": "depth", "metadata": meta}


JOB = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledJob",
    "metadata": {"name": "job", "namespace": "ai"},
    "spec": {"triggers": [{"type": "redis", "metadata": {"listName": "nowserving:queue:smollm2"}}]},
}
SECOND = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "second", "namespace": "ai"},
    "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "smollm2"}, "maxReplicas": 3},
}
ALL = ("queued", "batch", "delayed", "running", "busy", "blocked")
WAITING = "(queued + batch + delayed + running) / 8"
BLOCKED = "queued + batch > 0 ? blocked + (queued + batch) / 8 : 0"

SCALING: list[tuple[str, list[Edit]]] = [
    ("key-unknown", [(SCALED, f"{META}.listName", "nowserving:queu:smollm2")]),
    ("key-unknown", [(SCALED, f"{META}.listName", "smollm2")]),
    ("key-unknown", [(SCALED, f"{META}.listName", "ns:queue:smollm2")]),
    ("key-unknown", [(SCALED, f"{META}.listName", GONE)]),
    ("key-unknown", [(SCALED, "spec.triggers.4.metadata.listName", "nowserving:workers:smollm2")]),
    ("key-type", [(SCALED, f"{TRIGGER}.type", "redis-cluster")]),
    ("key-type", [(SCALED, f"{TRIGGER}.type", "redis-streams")]),
    (
        "key-role",
        [
            (SCALED, "spec.triggers.3.metadata.listName", "nowserving:busy:smollm2"),
            _formula(f"max(busy, {WAITING}, {BLOCKED})"),
        ],
    ),
    (
        "model-unknown",
        [
            _triggers(*ALL, model="smollm"),
            (
                WORKER,
                "spec.template.spec.containers.0.command",
                ["celery", "-A", "workers.app", "worker", "-Q", "nowserving:queue:smollm"],
            ),
        ],
    ),
    ("models-mixed", [(SCALED, "spec.triggers.5.metadata.listName", "nowserving:blocked:large")]),
    ("queue-other", [(WORKER, "spec.template.spec.containers.0.command.5", "nowserving:queue:large")]),
    (
        "batch-alone",
        [
            _triggers("batch", "delayed", "running", "busy", "blocked"),
            _formula("max(busy, (batch + delayed + running) / 8, batch > 0 ? blocked + batch / 8 : 0)"),
        ],
    ),
    (
        "batch-uncounted",
        [
            _triggers("queued", "delayed", "running", "busy", "blocked"),
            _formula("max(busy, (queued + delayed + running) / 8, queued > 0 ? blocked + queued / 8 : 0)"),
        ],
    ),
    (
        "webhooks-delayed",
        [
            (
                "ScaledObject/deliverer",
                "spec.triggers",
                _triggers("queued", "running", "busy", "delayed", model="@webhooks")[2],
            ),
            (
                "ScaledObject/deliverer",
                f"{MODIFIERS}.formula",
                "max(busy, (queued + delayed + running) / 32)",
            ),
        ],
    ),
    ("formula-missing", [(SCALED, "spec.advanced.scalingModifiers", GONE)]),
    ("formula-missing", [(SCALED, "spec.advanced.scalingModifiers", GONE), _triggers("queued", listLength="8")]),
    ("formula-unknown-name", [_formula(f"max(busy, {WAITING}, {BLOCKED}, waiting)")]),
    ("formula-unclosed", [_formula(f"max(busy, {WAITING}, {BLOCKED}")]),
    ("formula-unclosed", [_formula(f"max(busy, {WAITING}, {BLOCKED}))")]),
    ("formula-unclosed", [_formula(f"max(busy, [{WAITING}, {BLOCKED}))")]),
    (
        "trigger-unused",
        [_formula(f"max(busy, (queued + batch + running) / 8, {BLOCKED})"), (SCALED, "spec.minReplicaCount", 1)],
    ),
    ("trigger-unnamed", [(SCALED, "spec.triggers", [*_triggers(*ALL)[2], {**_triggers("busy")[2][0], "name": ""}])]),
    ("target-not-whole", [(SCALED, f"{MODIFIERS}.target", "1.0")]),
    ("target-not-whole", [(SCALED, f"{MODIFIERS}.target", "0.5"), _formula(f"max(busy, {WAITING}, {BLOCKED}) / 2")]),
    ("target-not-whole", [(SCALED, f"{MODIFIERS}.target", GONE)]),
    ("target-not-whole", [(SCALED, f"{META}.listLength", "0.5")]),
    ("not-a-string", [(SCALED, f"{MODIFIERS}.target", 1)]),
    ("not-a-string", [(SCALED, f"{META}.databaseIndex", 0)]),
    ("metric-type-value", [(SCALED, f"{MODIFIERS}.metricType", "Value")]),
    ("activation-ignored", [(SCALED, f"{META}.activationListLength", "5")]),
    ("formula-divides-by-zero", [_formula(f"max(busy, {WAITING}, {BLOCKED}, queued / running)")]),
    (
        "queue-uncounted",
        [_formula("max(busy, (batch + delayed + running) / 8, queued > 5 ? blocked + queued / 8 : 0)")],
    ),
    ("activation", [(SCALED, f"{MODIFIERS}.activationTarget", "1")]),
    ("slots-wrong", [_formula(f"max(busy, queued + batch + delayed + running, {BLOCKED})")]),
    (
        "slots-wrong",
        [("ConfigMap/models", "data", {"models.toml": '[models.smollm2]\nsource = "builtin:smollm2"\nslots = 2\n'})],
    ),
    (
        "busy-uncounted",
        [_triggers("queued", "batch", "delayed", "running", "blocked"), _formula(f"max({WAITING}, {BLOCKED})")],
    ),
    (
        "running-uncounted",
        [
            _triggers("queued", "batch", "delayed", "busy", "blocked"),
            _formula(f"max(busy, (queued + batch + delayed) / 8, {BLOCKED})"),
        ],
    ),
    (
        "delayed-uncounted",
        [
            _triggers("queued", "batch", "running", "busy", "blocked"),
            _formula(f"max(busy, (queued + batch + running) / 8, {BLOCKED})"),
        ],
    ),
    (
        "blocked-uncounted",
        [_triggers("queued", "batch", "delayed", "running", "busy"), _formula(f"max(busy, {WAITING})")],
    ),
    (
        "blocked-tolerated",
        [
            ("ConfigMap/models", "data", {"models.toml": '[models.smollm2]\nsource = "builtin:smollm2"\nslots = 16\n'}),
            _formula(f"max(busy, {WAITING}, {BLOCKED})".replace("8", "16")),
        ],
    ),
    ("never-zero", [_formula(f"max(1, busy, {WAITING}, {BLOCKED})")]),
    ("fallback-missing", [(SCALED, "spec.fallback", GONE)]),
    ("fallback-shrinks", [(SCALED, "spec.fallback.behavior", GONE)]),
    ("fallback-shrinks", [(SCALED, "spec.fallback.behavior", "currentReplicasIfLower")]),
    ("fallback-zero", [(SCALED, "spec.fallback.replicas", 0)]),
    ("address-short", [(SCALED, f"{META}.address", "redis:6379")]),
    ("address-short", [(SCALED, f"{META}.address", "localhost:6379")]),
    (
        "address-short",
        [(SCALED, f"{META}.address", GONE), (SCALED, f"{META}.host", "redis"), (SCALED, f"{META}.port", "6379")],
    ),
    (
        "address-short",
        [
            (SCALED, f"{META}.address", GONE),
            (SCALED, f"{META}.addressFromEnv", "REDIS"),
            ("ConfigMap/settings", "data.REDIS", "redis:6379"),
        ],
    ),
    ("address-form", [(SCALED, f"{META}.address", GONE), (SCALED, f"{META}.addressFromEnv", "NOWSERVING_REDIS_URL")]),
    ("address-form", [(SCALED, f"{META}.address", "redis.ai.svc.cluster.local")]),
    ("address-other", [(SCALED, f"{META}.address", "redis.other.svc.cluster.local:6379")]),
    ("address-other", [(SCALED, f"{META}.address", "redis.example.com:6379")]),
    ("password-plain", [(SCALED, f"{TRIGGER}.authenticationRef", GONE), (SCALED, f"{META}.password", "hunter2")]),
    ("password-missing", [(SCALED, f"{TRIGGER}.authenticationRef", GONE)]),
    ("database-other", [(SCALED, f"{META}.databaseIndex", "2")]),
    ("authentication-missing", [("TriggerAuthentication/redis", "metadata.namespace", "keda")]),
    (
        "null-is-zero",
        [
            (SCALED, "spec.triggers", [*_triggers(*ALL)[2], _prometheus()]),
            _formula(f"max(busy, {WAITING}, {BLOCKED}, depth)"),
        ],
    ),
    ("replicas-set", [(WORKER, "spec.replicas", 1)]),
    ("replicas-set", [("Deployment/api", "spec.replicas", 2)]),
    ("scalers-two", [("", "", SECOND)]),
    ("maximum-missing", [(SCALED, "spec.maxReplicaCount", GONE)]),
    ("bounds", [(SCALED, "spec.minReplicaCount", 9)]),
    ("idle-replicas", [(SCALED, "spec.idleReplicaCount", 1), (SCALED, "spec.minReplicaCount", 2)]),
    ("polling", [(SCALED, "spec.pollingInterval", 300), (SCALED, "spec.cooldownPeriod", 900)]),
    ("polling", [(SCALED, "spec.pollingInterval", 1)]),
    ("cooldown-short", [(SCALED, "spec.cooldownPeriod", 5)]),
    ("scaled-job", [("", "", JOB)]),
    ("paused", [(SCALED, "metadata.annotations", {"autoscaling.keda.sh/paused-replicas": "0"})]),
    ("target-missing", [(SCALED, "spec.scaleTargetRef.name", "smollm")]),
    ("target-missing", [(WORKER, "metadata.namespace", "gpu")]),
    (
        "resource-trigger",
        [
            (
                SCALED,
                "spec.triggers",
                [*_triggers(*ALL)[2], {"type": "memory", "metricType": "AverageValue", "metadata": {"value": "9Gi"}}],
            )
        ],
    ),
    (
        "stabilization-zero",
        [(SCALED, "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds", 0)],
    ),
    ("name-too-long", [(SCALED, "metadata.name", "smollm2-" + "x" * 50)]),
]
