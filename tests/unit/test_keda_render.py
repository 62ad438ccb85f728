from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nowserving.catalog import Catalog, parse_catalog
from nowserving.cli import app
from nowserving.errors import CatalogError
from nowserving.keda.render import formula, instance, render
from nowserving.settings import Settings
from tests.keda.manifest import Manifest, container, environment, find, read, select, validate

SETTINGS = Settings(drain_seconds=30)
L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}


def catalog(models: dict[str, dict[str, Any]]) -> Catalog:
    return parse_catalog({"models": {name: {"engine": "noop", **table} for name, table in models.items()}}, "test")


def made(models: dict[str, dict[str, Any]], settings: Settings = SETTINGS) -> list[Manifest]:
    manifests = read(render(catalog(models), settings))
    for manifest in manifests:
        validate(manifest)
    return manifests


def test_three_models_two_of_them_on_one_kind_of_gpu() -> None:
    models = {
        "small": {"gpus": 1, "node_selector": L4, "slots": 16},
        "large": {"gpus": 2, "node_selector": L4, "memory": "64Gi", "batch_weight": 0.25, "max_replicas": 2},
        "cpu": {"slots": 2, "min_replicas": 1, "batch_weight": 0.0, "cpu": "1500m", "load_seconds": 61},
    }
    manifests = made(models)
    scaled = select(manifests, "ScaledObject", "worker")
    assert [manifest["spec"]["scaleTargetRef"]["name"] for manifest in scaled] == [
        "nowserving-worker-small",
        "nowserving-worker-large",
        "nowserving-worker-cpu",
    ]
    for name, manifest in zip(("small", "large", "cpu"), scaled, strict=True):
        listed = {trigger["name"]: trigger["metadata"]["listName"] for trigger in manifest["spec"]["triggers"]}
        assert listed.pop("queued_batch", "") == ("" if name == "cpu" else f"nowserving:queue:{name}:batch")
        assert listed == {
            "queued": f"nowserving:queue:{name}",
            "delayed": f"nowserving:delayed:{name}",
            "running": f"nowserving:running:{name}",
            "busy": f"nowserving:busy:{name}",
            "blocked": f"nowserving:blocked:{name}",
        }
    formulas = [manifest["spec"]["advanced"]["scalingModifiers"]["formula"] for manifest in scaled]
    assert formulas == [formula(16, 1.0), formula(8, 0.25), formula(2, 0.0)]
    assert [manifest["spec"]["maxReplicaCount"] for manifest in scaled] == [4, 2, 4]
    assert [manifest["spec"]["minReplicaCount"] for manifest in scaled] == [0, 0, 1]
    # KEDA warns of these where nothing scales to zero.
    assert [{"pollingInterval", "cooldownPeriod"} & set(manifest["spec"]) for manifest in scaled][2] == set()

    workers = [manifest["spec"]["template"] for manifest in select(manifests, "Deployment", "worker")]
    limits = [container(pod)["resources"]["limits"] for pod in workers]
    assert [limit.get("nvidia.com/gpu") for limit in limits] == [1, 2, None]
    assert [pod["spec"].get("nodeSelector") for pod in workers] == [L4, L4, None]
    assert [bool(pod["spec"].get("tolerations")) for pod in workers] == [True, True, False]
    assert [container(pod)["image"].split(":")[0] for pod in workers] == [
        "ghcr.io/nowserving/worker-cuda",
        "ghcr.io/nowserving/worker-cuda",
        "ghcr.io/nowserving/worker",
    ]
    assert [environment(pod).get("OMP_NUM_THREADS") for pod in workers] == [None, None, "2"]
    assert container(workers[2])["startupProbe"]["failureThreshold"] * 5 == 65
    assert len(select(manifests, "ServiceAccount")) == len(select(manifests, "Role")) == 1


def test_the_formula_weighs_the_batch_lane() -> None:
    assert formula(8, 0) == "max(busy, (queued + delayed + running) / 8, queued > 0 ? blocked + ceil(queued / 8) : 0)"
    assert formula(8, 1) == (
        "max(busy, (queued + queued_batch + delayed + running) / 8,"
        " (queued + queued_batch) > 0 ? blocked + ceil((queued + queued_batch) / 8) : 0)"
    )
    assert "(queued + 0.25 * queued_batch + delayed + running) / 8" in formula(8, 0.25)


@pytest.mark.parametrize(
    ("counted", "wanted"),
    [
        ({}, 0),
        ({"queued": 1}, 1),
        ({"queued_batch": 1}, 1),
        ({"queued": 9, "busy": 1, "running": 8}, 17 / 8),
        ({"running": 3, "busy": 3}, 3),  # packed they would be one
        ({"queued": 2, "blocked": 1, "running": 1, "busy": 1}, 2),
        ({"queued_batch": 2, "blocked": 1, "running": 1, "busy": 1}, 2),
        ({"blocked": 1, "running": 1, "busy": 1}, 1),  # and nobody waits
        ({"delayed": 4}, 4 / 8),
    ],
)
def test_what_the_formula_comes_to(counted: dict[str, int], wanted: float) -> None:
    names = ("queued", "queued_batch", "delayed", "running", "busy", "blocked")
    python = re.sub(r"(\(queued[^)]*\) > 0) \? (.*) : 0\)$", r"(\2) if \1 else 0)", formula(8, 0.5))
    assert eval(python, {"max": max, "ceil": math.ceil} | {name: counted.get(name, 0) for name in names}) == wanted


def test_a_job_too_light_for_keda_to_count_is_refused() -> None:
    with pytest.raises(CatalogError, match=r"models\.m: batch_weight / slots is less than"):
        made({"m": {"batch_weight": 0.01, "slots": 8}})
    with pytest.raises(CatalogError, match=r"models\.m"):
        made({"m": {"batch_weight": 0.0, "slots": 1024}})
    made({"m": {"batch_weight": 0.0, "slots": 500}})


def test_the_grace_period_follows_the_drain() -> None:
    for drain, grace in ((30, 45), (0, 15), (600.5, 616)):
        manifests = made({"m": {}}, Settings(drain_seconds=drain))
        for name in ("nowserving-worker-m", "nowserving-deliverer"):
            pod = find(manifests, "Deployment", name)["spec"]["template"]
            assert pod["spec"]["terminationGracePeriodSeconds"] == grace
            assert float(environment(pod)["NOWSERVING_DRAIN_SECONDS"]) == drain


@pytest.mark.parametrize("model", ["qwen2.5-7b", "a_b", "a-", "a.", "a" * 64, "a." * 32, "x__y"])
def test_a_name_that_kubernetes_does_not_take_becomes_one_that_it_does(model: str) -> None:
    name = instance(model)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
    # A pod's name is its host's, and the HPA's a label.
    assert len(f"nowserving-worker-{name}-0123456789-01234") <= 63
    assert len(f"keda-hpa-nowserving-worker-{name}") <= 63
    (scaled,) = select(made({model: {}}), "ScaledObject", "worker")
    assert scaled["metadata"]["name"] == f"nowserving-worker-{name}"
    assert scaled["spec"]["triggers"][0]["metadata"]["listName"] == f"nowserving:queue:{model}"


def test_names_that_are_alike_stay_apart() -> None:
    assert len({instance(model) for model in ("a.b", "a-b", "a_b", "a--b", "a-b-")}) == 5
    with pytest.raises(CatalogError, match="would share the name"):
        made({"a.b": {}, instance("a.b"): {}})


def test_the_command_writes_what_render_makes(tmp_path: Path) -> None:
    models, out = tmp_path / "models.toml", tmp_path / "out.yaml"
    models.write_text('[models.m]\nengine = "noop"\n')
    run = CliRunner().invoke
    env = {"NOWSERVING_DRAIN_SECONDS": "30"}
    assert run(app, ["keda", "render", "--models", str(models), "--out", str(out)], env=env).exit_code == 0
    assert out.read_text() == render(catalog({"m": {}}), SETTINGS)
    done = run(app, ["keda", "render", "--models", str(models), "--namespace", "team-a"], env=env)
    assert done.stdout == render(catalog({"m": {}}), SETTINGS, "team-a")
    assert "nowserving-redis.team-a.svc.cluster.local:6379" in done.stdout
    assert {manifest["metadata"]["namespace"] for manifest in read(done.stdout)} == {"team-a"}
    done = run(app, ["keda", "render", "--models", str(models), "--redis", "r.example.com:6380"], env=env)
    assert "address: r.example.com:6380\n" in done.stdout
    for wrong in (
        ["--namespace", "A b"],
        ["--redis", "r:6380\nx: y"],
        ["--redis", "r:\u0666"],
        ["--models", str(tmp_path)],
        ["--out", str(tmp_path)],
    ):
        assert run(app, ["keda", "render", "--models", str(models), *wrong], env=env).exit_code == 2
