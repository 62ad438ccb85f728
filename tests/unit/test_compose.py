"""compose.yaml, read by Compose itself: that it takes it, and that it says what the code and the manifests say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from nowserving.catalog import load_catalog
from nowserving.keda.render import MARGIN_SECONDS, PORT
from nowserving.receivers import load_receivers
from nowserving.settings import Settings
from nowserving.target import Policy
from tests.images.compose import Service, ask, resolve
from tests.images.dockerfile import DOCKERFILES, ROOT, Image
from tests.keda.manifest import container, pods, read

OURS = {"api": "api", "worker": "worker", "worker-gpu": "worker", "deliverer": "deliverer"}
"""Each service that runs an image of ours, and which."""
OWN = {"redis_url", "models_file", "receivers_file"}
"""Settings that a service gets a value of its own for."""
IMAGES = {"worker_port", "cache_dir", "builtin_dir"}
"""… and those that its image has one for."""
UNUSED = {"host", "port", "data_dir"}
"""`nowserving api` and `up` read these; here uvicorn and Redis are told by their commands."""


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    found: dict[str, Service] = resolve()["services"]
    return found


def test_compose_takes_it_and_the_default_is_redis_api_worker_and_deliverer() -> None:
    done = ask("config", "--services")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == {"redis", "api", "worker", "deliverer"}


@pytest.mark.parametrize(
    "planted",
    [
        {"services": {"api": {"surprise": 1}}},
        {"services": {"api": {"healthcheck": {"surprise": 1}}}},
        {"services": {"api": {"restart": ["always"]}}},
        {"services": {"api": {"depends_on": {"nobody": {"condition": "service_healthy"}}}}},
        {"services": {"api": {"volumes": ["nothing:/x"]}}},
        {"surprise": {}},
    ],
)
def test_compose_would_refuse_what_its_specification_does_not_have(tmp_path: Path, planted: dict[str, Any]) -> None:
    override = tmp_path / "override.yaml"
    override.write_text(yaml.safe_dump(planted))
    done = ask("--file", str(ROOT / "compose.yaml"), "--file", str(override), "config", "--quiet")
    assert done.returncode != 0


def test_every_setting_can_be_given(services: dict[str, Service]) -> None:
    names = {name: f"NOWSERVING_{name.upper()}" for name in Settings.model_fields}
    given = {names[name]: f"given-{name}" for name in Settings.model_fields if name not in OWN}
    given |= {"NOWSERVING_PORT": "8123"}
    told: dict[str, Service] = resolve(**given)["services"]
    for service, image in OURS.items():
        env = told[service]["environment"]
        fixed = Image(image).environment()
        for name in set(names) - OWN - IMAGES - UNUSED - {"webhook_secret"}:
            assert env[names[name]] == given[names[name]], (service, name)
        assert {names[name] for name in OWN} <= set(env)
        assert not {names[name] for name in IMAGES} & set(env)
        assert names["worker_port"] in fixed or image == "api"
        # Who runs models of users' has no use for what signs.
        assert (names["webhook_secret"] in env) == (image != "worker")
    assert told["api"]["ports"][0]["published"] == "8123"
    assert told["redis"]["environment"] == {"REDISCLI_AUTH": "given-redis_password"}
    assert "given-redis_password" in told["redis"]["command"]


def test_nothing_is_given_by_default_but_where_things_are(services: dict[str, Service]) -> None:
    for service in OURS:
        env = {name: value for name, value in services[service]["environment"].items() if value is not None}
        assert env == {
            "NOWSERVING_REDIS_URL": "redis://redis:6379/0",
            "NOWSERVING_REDIS_PASSWORD": "",
            "NOWSERVING_MODELS_FILE": "/etc/nowserving/models.toml",
            "NOWSERVING_RECEIVERS_FILE": "/etc/nowserving/receivers.toml",
            "NOWSERVING_DRAIN_SECONDS": f"{Settings.model_fields['drain_seconds'].default:g}",
        }


def test_services_run_what_their_images_do(services: dict[str, Service]) -> None:
    for service, image in OURS.items():
        assert services[service]["command"] == Image(image).command()
        path, target = DOCKERFILES[image]
        build = services[service]["build"]
        assert build["context"] == str(ROOT)
        assert (build["dockerfile"], build.get("target", "")) == (str(path.relative_to(ROOT)), target)
    assert services["worker-gpu"]["build"]["args"] == {"TORCH": "cuda"}
    assert "args" not in services["worker"]["build"]


def test_a_worker_serves_the_model_that_is_named() -> None:
    told = resolve(WORKER_MODEL="large")["services"]
    assert {"nowserving:queue:large", "large@%h"} <= set(told["worker"]["command"])


def test_nobody_may_more_than_needed(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert not service.get("privileged"), name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        assert service.get("init", False) == (name in OURS), name
    assert "ports" not in services["redis"]


def test_images_have_versions(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["image"].rpartition(":")[2] not in ("", "latest"), name
    assert {services[name]["image"] for name in OURS} == {
        f"nowserving-{kind}:dev" for kind in ("api", "worker", "worker-cuda", "deliverer")
    }


def test_each_is_asked_how_it_is_and_waited_for(services: dict[str, Service]) -> None:
    for name, service in services.items():
        # The API's is its image's.
        assert "healthcheck" in service or name == "api", name
    for name in OURS:
        assert services[name]["depends_on"]["redis"]["condition"] == "service_healthy"
    for name in ("worker", "worker-gpu", "deliverer"):
        kind, line = services[name]["healthcheck"]["test"]
        program = shlex.split(line)
        assert kind == "CMD-SHELL"
        assert program == [word.replace("/health/live", "/health/ready") for word in Image("worker").check()]
        assert f", {PORT}," in program[-1]


def test_a_worker_may_take_longer_to_end_than_its_drain(services: dict[str, Service]) -> None:
    for name in ("worker", "worker-gpu", "deliverer"):
        drain = float(services[name]["environment"]["NOWSERVING_DRAIN_SECONDS"])
        assert services[name]["stop_grace_period"] == f"{drain + MARGIN_SECONDS:.0f}s"


def test_redis_is_the_one_that_kubernetes_gets() -> None:
    document = resolve()
    redis = document["services"]["redis"]
    ((_, pod),) = pods(read((ROOT / "keda/base/redis.yaml").read_text()))
    assert redis["image"] == container(pod)["image"]
    assert redis["command"][:2] == container(pod)["command"]
    assert document["configs"]["redis"]["file"] == str(ROOT / "keda/base/redis.conf")
    assert redis["volumes"][0]["target"] == "/data"


def test_what_is_mounted_is_there_and_is_taken() -> None:
    document = resolve()
    files = {name: Path(config["file"]) for name, config in document["configs"].items()}
    assert all(file.is_file() for file in files.values())
    assert set(load_catalog(files["models"])) == {"smollm2"}
    load_receivers(Settings(receivers_file=files["receivers"]), Policy((), (443,)))
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).is_dir()
    own = resolve(NOWSERVING_MODELS_FILE="./README.md")["configs"]
    assert own["models"]["file"] == str(ROOT / "README.md")


def test_a_worker_on_a_gpu_asks_for_one(services: dict[str, Service]) -> None:
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert "deploy" not in services["worker"]


def test_prometheus_and_grafana_look_where_things_are(services: dict[str, Service]) -> None:
    jobs = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    looked = {(name, config["port"]) for job in jobs for config in job["dns_sd_configs"] for name in config["names"]}
    assert looked == {(service, 8000 if service == "api" else PORT) for service in OURS}
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/nowserving.yaml").read_text())["providers"]
    mounts = {volume["target"]: volume["source"] for volume in services["grafana"]["volumes"]}
    assert mounts[provider["options"]["path"]] == str(ROOT / "deploy/grafana/dashboards")
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    dashboard = Path(home.replace(provider["options"]["path"], str(ROOT / "deploy/grafana/dashboards")))
    assert json.loads(dashboard.read_text())["uid"] == "nowserving"
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["observability"]


def test_an_overlay_for_one_machine_takes_the_images_that_compose_builds() -> None:
    images = yaml.safe_load((ROOT / "keda/overlays/local/kustomization.yaml").read_text())["images"]
    assert {(image["name"], f"{image['newName']}:{image['newTag']}") for image in images} == {
        (f"ghcr.io/nowserving/{name}", resolve()["services"][name]["image"]) for name in DOCKERFILES
    }
