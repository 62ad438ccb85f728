"""What `kubectl apply -k` would send: that a cluster takes it, and that its parts fit together."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from nowserving import __version__
from nowserving.catalog import load_catalog, parse_catalog
from nowserving.keda.render import MARGIN_SECONDS, render
from nowserving.settings import Settings
from tests.keda.manifest import (
    KEDA,
    OVERLAYS,
    Manifest,
    build,
    container,
    environment,
    find,
    pods,
    read,
    select,
    validate,
)
from tests.keda.security import violations

STACK = "gpu, weights and external-redis"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base, the overlays, and one as users make them: several components at once, in a namespace of their own."""
    copy = tmp_path_factory.mktemp("keda") / "keda"
    shutil.copytree(KEDA, copy)
    stack = copy / "overlays" / "stack"
    shutil.copytree(copy / "overlays/external-redis", stack)
    text = (stack / "kustomization.yaml").read_text().replace("namespace: nowserving", "namespace: team-a")
    document = yaml.safe_load(text)
    document["components"] = [f"../../components/{name}" for name in ("gpu", "weights", "external-redis")]
    (stack / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return {"base": KEDA / "base", STACK: stack} | {name: KEDA / "overlays" / name for name in OVERLAYS}


@pytest.fixture(scope="module", params=["base", *OVERLAYS, STACK])
def manifests(request: pytest.FixtureRequest, folders: dict[str, Path]) -> list[Manifest]:
    return build(folders[request.param])


def test_a_cluster_takes_it(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        validate(manifest)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ["spec", "template", "spec"]),
        ("ScaledObject", ["spec", "fallback"]),
        ("ScaledObject", ["spec", "advanced", "scalingModifiers"]),
        ("ScaledObject", ["spec", "triggers", 0]),
        ("TriggerAuthentication", ["spec", "secretTargetRef", 0]),
        ("NetworkPolicy", ["spec"]),
    ],
)
def test_a_field_that_nobody_knows_is_refused(folders: dict[str, Path], kind: str, path: list[Any]) -> None:
    manifest = select(build(folders["base"]), kind)[0]
    inner = manifest
    for step in path:
        inner = inner[step]
    inner["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        validate(manifest)


def test_every_pod_meets_the_restricted_level(manifests: list[Manifest]) -> None:
    seen = 0
    for name, pod in pods(manifests):
        assert not violations(pod), name
        assert container(pod)["securityContext"]["readOnlyRootFilesystem"], name
        seen += 1
    assert seen >= 3
    assert select(manifests, "Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_container_says_what_it_asks_for(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests):
        resources = container(pod)["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"]), name
        assert "memory" in resources["limits"], name
        assert "cpu" not in resources["limits"], name


def test_images_have_versions(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests):
        image, _, tag = container(pod)["image"].rpartition(":")
        assert image, name
        assert tag not in ("", "latest"), name
        if "ghcr.io/nowserving/" in image:
            assert tag == __version__, name


def test_what_is_named_is_there(manifests: list[Manifest]) -> None:
    """Accounts, ConfigMaps, Secrets and keys that pods and KEDA ask for, but those marked optional."""
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    keys = {
        name: set(manifest.get("data", {}))
        for kind in ("Secret", "ConfigMap")
        for manifest in select(manifests, kind)
        for name in [manifest["metadata"]["name"]]
    }
    for _, pod in pods(manifests):
        account = pod["spec"].get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in there
        for volume in pod["spec"].get("volumes", []):
            assert "configMap" not in volume or ("ConfigMap", volume["configMap"]["name"]) in there
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or ("PersistentVolumeClaim", claim["claimName"]) in there
        for source in container(pod).get("envFrom", []):
            assert source.get("secretRef", {}).get("optional") or source["configMapRef"]["name"] in keys
        for value in environment(pod).values():
            if isinstance(value, dict) and "secretKeyRef" in value:
                assert value["secretKeyRef"]["key"] in keys[value["secretKeyRef"]["name"]]
    for scaled in select(manifests, "ScaledObject"):
        assert ("Deployment", scaled["spec"]["scaleTargetRef"]["name"]) in there
        for trigger in scaled["spec"]["triggers"]:
            assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in there
    for authentication in select(manifests, "TriggerAuthentication"):
        for parameter in authentication["spec"]["secretTargetRef"]:
            assert parameter["key"] in keys[parameter["name"]]


def test_selectors_select(manifests: list[Manifest]) -> None:
    labels = [pod["metadata"]["labels"] for _, pod in pods(manifests)]
    names = ["Deployment", "StatefulSet", "PodDisruptionBudget", "Service"]
    for manifest in [manifest for kind in names for manifest in select(manifests, kind)]:
        selector = manifest["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        matched = [pod for pod in labels if selector.items() <= pod.items()]
        assert len(matched) == 1, manifest["metadata"]["name"]


def test_nobody_but_keda_and_the_autoscaler_says_how_many(manifests: list[Manifest]) -> None:
    for manifest in select(manifests, "Deployment"):
        assert "replicas" not in manifest["spec"]
    for manifest in select(manifests, "HorizontalPodAutoscaler"):
        target = find(manifests, "Deployment", manifest["spec"]["scaleTargetRef"]["name"])
        assert "cpu" in container(target["spec"]["template"])["resources"]["requests"]


def test_a_worker_may_patch_pods_and_nothing_else(manifests: list[Manifest]) -> None:
    (role,) = select(manifests, "Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    tokens = {name for name, pod in pods(manifests) if pod["spec"]["automountServiceAccountToken"]}
    assert tokens == {name["metadata"]["name"] for name in select(manifests, "Deployment", "worker")}
    assert not select(manifests, "ClusterRole")


def test_workers_roll_without_a_second_gpu(manifests: list[Manifest]) -> None:
    for manifest in select(manifests, "Deployment", "worker"):
        assert manifest["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
        (budget,) = [
            budget
            for budget in select(manifests, "PodDisruptionBudget", "worker")
            if budget["spec"]["selector"] == manifest["spec"]["selector"]
        ]
        assert budget["spec"]["maxUnavailable"] == 1


def test_a_pod_may_take_longer_to_end_than_its_drain(manifests: list[Manifest]) -> None:
    for name, pod in pods([*select(manifests, "Deployment", "worker"), *select(manifests, "Deployment", "deliverer")]):
        drain = float(environment(pod)["NOWSERVING_DRAIN_SECONDS"])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + MARGIN_SECONDS, name
        assert drain == Settings.model_fields["drain_seconds"].default


def test_everything_a_worker_writes_is_in_one_place(manifests: list[Manifest]) -> None:
    for pod in [pod for _, pod in pods(select(manifests, "Deployment", "worker"))]:
        env = environment(pod)
        for name in (
            "HOME",
            "TMPDIR",
            "HF_HOME",
            "NOWSERVING_CACHE_DIR",
            "TORCHINDUCTOR_CACHE_DIR",
            "TRITON_CACHE_DIR",
        ):
            assert Path(env[name]).is_relative_to("/cache"), name
        writable = {mount["mountPath"] for mount in container(pod)["volumeMounts"] if not mount.get("readOnly")}
        assert writable - {"/dev/shm"} == {"/cache"}


def test_base_is_what_render_writes() -> None:
    text = render(load_catalog(KEDA / "base/models.toml"), Settings(drain_seconds=30, webhook_concurrency=32))
    assert text == (KEDA / "base/models.yaml").read_text()


def test_another_namespace_reaches_into_every_address(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(KEDA, tmp_path / "keda")
    for name in set(OVERLAYS) - {"external-redis"}:
        file = tmp_path / "keda/overlays" / name / "kustomization.yaml"
        file.write_text(file.read_text().replace("namespace: nowserving", "namespace: team-a"))
        manifests = build(file.parent)
        assert {manifest["metadata"].get("namespace", "team-a") for manifest in manifests} == {"team-a"}
        assert select(manifests, "Namespace")[0]["metadata"]["name"] == "team-a"
        assert select(manifests, "RoleBinding")[0]["subjects"][0]["namespace"] == "team-a"
        assert addresses(manifests) == {"nowserving-redis.team-a.svc.cluster.local:6379"}


def addresses(manifests: list[Manifest]) -> set[str]:
    return {
        trigger["metadata"]["address"]
        for scaled in select(manifests, "ScaledObject")
        for trigger in scaled["spec"]["triggers"]
    }


@pytest.mark.parametrize("name", ["external-redis", STACK])
def test_a_managed_redis_is_one_address_for_all(folders: dict[str, Path], name: str) -> None:
    manifests = build(folders[name])
    settings = find(manifests, "ConfigMap", "nowserving-settings")["data"]
    assert settings == {"NOWSERVING_REDIS_URL": "rediss://redis.example.com:6380/0"}
    assert addresses(manifests) == {"redis.example.com:6380"}
    assert not select(manifests, "StatefulSet")
    assert not select(manifests, "Service", "redis")
    assert find(manifests, "Secret", "nowserving-redis")["data"]["tls"] == "ZW5hYmxl"  # enable


def test_the_gpu_overlay_is_what_render_writes_for_a_gpu(folders: dict[str, Path]) -> None:
    shipped = load_catalog(KEDA / "base/models.toml")["smollm2"]
    table = {**shipped.model_dump(exclude={"name"}, exclude_none=True), "gpus": 1}
    rendered = read(render(parse_catalog({"models": {"smollm2": table}}, "test"), Settings()))
    wanted, built = (
        find(manifests, "Deployment", "nowserving-worker-smollm2")["spec"]["template"]["spec"]
        for manifests in (rendered, build(folders["gpu"]))
    )
    assert re.sub("-[0-9a-z]{10}(?=')", "", str(ordered(built))) == str(ordered(wanted))


def ordered(value: Any) -> Any:
    """The same, but that lists and tables differ in no order: kustomize puts what a patch adds first."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return sorted((ordered(item) for item in value), key=str) if isinstance(value, list) else value
