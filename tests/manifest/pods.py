"""Mistakes in pods, Redis, budgets and the catalog: the rule that finds each, and what is edited."""

from __future__ import annotations

from typing import Any

from tests.manifest.planting import GONE, Edit

SCALED = "ScaledObject/smollm2"
WORKER = "Deployment/smollm2"
API = "Deployment/api"
REDIS = "StatefulSet/redis"
POD = "spec.template.spec"
FIRST = f"{POD}.containers.0"
SERVER = "redis-server --appendonly yes --appendfsync always"
ROLLING = "spec.strategy.rollingUpdate"
QUEUE = "nowserving:queue:smollm2"


def _run(line: str) -> Edit:
    return WORKER, f"{FIRST}.command", ["sh", "-c", line]


def _exec(*command: str) -> dict[str, Any]:
    return {"exec": {"command": list(command)}}


def serve(line: str) -> Edit:
    """Redis with this command line."""
    return REDIS, f"{FIRST}.args", line.split()


def _large(**pod: Any) -> list[Edit]:
    """A worker of the other model, scaled by hand."""
    command = ["celery", "-A", "workers.app", "worker", "-Q", "nowserving:queue:large"]
    container = {"name": "large", "image": "a:1", "command": command, "resources": pod.pop("resources", {})}
    spec = {"terminationGracePeriodSeconds": 45, "containers": [container], **pod}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "large", "namespace": "ai"},
        "spec": {
            "replicas": 1,
            "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"app": "large"}}, "spec": spec},
        },
    }
    return [("", "", body)]


CLAIM = {"resourceClaims": [{"name": "card", "resourceClaimName": "card"}]}
SLICE = {"limits": {"nvidia.com/gpu.shared": 1}}
SECOND = {
    "name": "large",
    "image": "a:1",
    "command": ["celery", "-A", "workers.app", "worker", "-Q", "nowserving:queue:large"],
    "envFrom": [{"configMapRef": {"name": "settings"}}],
}
UNMARKED = [{"name": "worker", "image": "a:1"}]

LOADING = '[models.smollm2]\nsource = "builtin:smollm2"\nslots = 8\nload_seconds = 601\n'

PODS: list[tuple[str, list[Edit]]] = [
    ("grace-too-short", [(WORKER, f"{POD}.terminationGracePeriodSeconds", GONE)]),
    ("grace-too-short", [(WORKER, f"{POD}.terminationGracePeriodSeconds", 30)]),
    ("grace-too-short", [("ConfigMap/settings", "data.NOWSERVING_DRAIN_SECONDS", "600")]),
    ("grace-too-short", [("Deployment/deliverer", f"{POD}.terminationGracePeriodSeconds", 10)]),
    ("grace-too-short", [(WORKER, f"{POD}.containers", UNMARKED), (WORKER, f"{POD}.terminationGracePeriodSeconds", 5)]),
    ("prestop-eats-grace", [(WORKER, f"{FIRST}.lifecycle", {"preStop": {"sleep": {"seconds": 20}}})]),
    ("prestop-eats-grace", [(WORKER, f"{FIRST}.lifecycle", {"preStop": _exec("sh", "-c", "sleep 20; true")})]),
    ("lease-over-grace", [("ConfigMap/settings", "data.NOWSERVING_LEASE_SECONDS", "60")]),
    ("leases-differ", [(WORKER, f"{FIRST}.env", [{"name": "NOWSERVING_LEASE_SECONDS", "value": "20"}])]),
    ("shell-keeps-sigterm", [_run(f"mkdir -p /cache && celery -A workers.app worker -Q {QUEUE}")]),
    ("surge-gpu", [(WORKER, "spec.strategy", GONE)]),
    ("surge-gpu", [(WORKER, f"{ROLLING}.maxSurge", 1)]),
    (
        "surge-gpu",
        [(WORKER, f"{ROLLING}.maxSurge", "25%"), (WORKER, f"{FIRST}.resources", {"limits": {"amd.com/gpu": "1"}})],
    ),
    ("rollout-stuck", [(WORKER, f"{ROLLING}.maxUnavailable", 0)]),
    ("image-latest", [(WORKER, f"{FIRST}.image", "registry.example:5000/nowserving/worker")]),
    ("image-latest", [(API, f"{FIRST}.image", "nowserving/api:latest")]),
    ("disruption-blocked", [("PodDisruptionBudget/smollm2", "spec.maxUnavailable", 0)]),
    ("disruption-blocked", [("PodDisruptionBudget/api", "spec.minAvailable", "100%")]),
    ("disruption-blocked", [("PodDisruptionBudget/api", "spec.minAvailable", 2)]),
    (
        "disruption-blocked",
        [("PodDisruptionBudget/smollm2", "spec", {"minAvailable": 1, "selector": {"matchLabels": {"app": "smollm2"}}})],
    ),
    ("probe-redis", [(WORKER, f"{FIRST}.livenessProbe", _exec("celery", "-A", "workers.app", "inspect", "ping"))]),
    ("probe-redis", [(API, f"{FIRST}.readinessProbe", _exec("redis-cli", "-h", "redis", "ping"))]),
    ("probe-redis", [(API, f"{FIRST}.readinessProbe", {"httpGet": {"path": "/v1/queues", "port": 8000}})]),
    ("probe-redis", [(API, f"{FIRST}.readinessProbe", {"tcpSocket": {"host": "redis", "port": 6379}})]),
    ("probe-inference", [(WORKER, f"{FIRST}.livenessProbe", _exec("nowserving", "submit", "smollm2", "hi"))]),
    ("probe-inference", [(API, f"{FIRST}.livenessProbe", _exec("curl", "-XPOST", "http://localhost:8000/v1/jobs"))]),
    ("startup-unbounded", [(WORKER, f"{FIRST}.startupProbe", GONE)]),
    (
        "startup-too-short",
        [
            (WORKER, f"{FIRST}.command.5", "nowserving:queue:large"),
            (WORKER, f"{FIRST}.startupProbe.failureThreshold", 6),
            (SCALED, "spec.triggers", GONE),
            (SCALED, "spec.advanced.scalingModifiers", GONE),
        ],
    ),
    (
        "startup-too-short",
        [
            ("ConfigMap/models", "data", {"models.toml": LOADING}),
        ],
    ),
    ("requests-missing", [(API, f"{FIRST}.resources", {"requests": {"memory": "1Gi"}})]),
    (
        "requests-missing",
        [(API, f"{POD}.initContainers", [{"name": "mesh", "image": "mesh:1", "restartPolicy": "Always"}])],
    ),
    ("catalog-invalid", [("ConfigMap/models", "data", {"models.toml": "[models.smollm2]\nslots = 0\n"})]),
    ("catalog-invalid", [("ConfigMap/models", "data", {"models.toml": "models = ["})]),
    ("gpu-overpromised", [(WORKER, f"{POD}.containers.1", SECOND)]),
    ("gpu-overpromised", [(WORKER, f"{POD}.resourceClaims", CLAIM["resourceClaims"]), *_large(**CLAIM)]),
    ("gpu-overpromised", [(WORKER, f"{FIRST}.resources", SLICE)]),
    (
        "gpu-overpromised",
        [(WORKER, f"{FIRST}.resources", SLICE), (SCALED, "spec.maxReplicaCount", 1), *_large(resources=SLICE)],
    ),
    ("redis-evicts", [serve(f"{SERVER} --maxmemory-policy volatile-lru")]),
    ("redis-not-durable", [serve("redis-server --maxmemory-policy noeviction")]),
    ("redis-fsync", [serve("redis-server --appendonly yes")]),
    ("redis-cluster", [serve(f"{SERVER} --cluster-enabled yes")]),
    (
        "redis-volume",
        [(REDIS, "spec.volumeClaimTemplates", GONE), (REDIS, f"{POD}.volumes", [{"name": "data", "emptyDir": {}}])],
    ),
    ("redis-volume", [(REDIS, f"{FIRST}.volumeMounts", GONE)]),
    ("password-plain", [(API, f"{FIRST}.env", [{"name": "REDIS_PASSWORD", "value": "hunter2"}])]),
    (
        "password-plain",
        [(API, f"{FIRST}.env", [{"name": "NOWSERVING_REDIS_URL", "value": "redis://:hunter2@redis:6379"}])],
    ),
]
