"""docs/kubernetes.md as its reader uses it: the overlay is built and checked, each command gets as far as a cluster."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nowserving.keda.check import find as find_mistakes
from nowserving.keda.check.cluster import Cluster
from nowserving.keda.check.manifest import parse_manifests
from tests.keda.manifest import KEDA, ROOT, Manifest, build, container, environment, kubectl, pods, select, validate
from tests.keda.security import violations

PAGE = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHELL = "\n".join(text for kind, text in BLOCKS if not kind)
INLINE = re.findall(r"`(kubectl [^`]*)`", PAGE)
PARTS = ("kubectl apply -k", "kubectl delete -k", "kubectl kustomize", "kubectl config")
"""Those that ask no cluster, or are built elsewhere here."""
COMMANDS = sorted(
    {
        line.split(" #")[0].split(" | ")[0].removesuffix(" >/dev/null &").split(" > ")[0].strip()
        for line in [*SHELL.splitlines(), *INLINE]
        if line.startswith("kubectl ") and not line.startswith(PARTS)
    }
)
NOWHERE = "http://127.0.0.1:1"


def overlay() -> Any:
    (text,) = [text for _, text in BLOCKS if "kind: Kustomization" in text]
    return text


@pytest.fixture(scope="module", params=["gpu", "local", "weights", "external-redis"])
def mine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Manifest]]:
    """The page's overlay, made from each of ours."""
    copy = tmp_path_factory.mktemp("runbook") / "keda"
    shutil.copytree(KEDA, copy)
    folder = copy / "overlays/mine"
    folder.mkdir()
    (folder / "redis.env").write_text("password=chosen\n")
    (folder / "receivers.toml").write_text('[receivers.billing]\nurl = "https://billing.example.com/jobs"\n')
    (folder / "kustomization.yaml").write_text(overlay().replace("[../gpu]", f"[../{request.param}]"))
    return request.param, build(folder)


def test_the_overlay_is_what_a_cluster_takes(mine: tuple[str, list[Manifest]]) -> None:
    name, manifests = mine
    for manifest in manifests:
        validate(manifest)
    for pod_name, pod in pods(manifests):
        assert not violations(pod), pod_name
        image = container(pod)["image"]
        assert image.startswith(("registry.example.com/", "docker.io/valkey/", "nowserving-")), pod_name
        assert image.startswith("nowserving-") <= (name == "local")
    (secret,) = [one for one in select(manifests, "Secret") if one["metadata"]["name"] == "nowserving-redis"]
    assert secret["data"]["password"] == "Y2hvc2Vu"  # chosen
    assert find_mistakes(Cluster(parse_manifests(yaml.safe_dump_all(manifests), "mine"))) == []
    if name == "gpu":
        assert f"Nothing found in {len(manifests)} objects." in PAGE


@pytest.mark.parametrize("base", ["gpu", "local", "weights"])
def test_another_namespace_takes_what_the_page_adds(tmp_path: Path, base: str) -> None:
    (more,) = [text for _, text in BLOCKS if text.startswith("replacements:")]
    shutil.copytree(KEDA, tmp_path / "keda")
    folder = tmp_path / "keda/overlays/mine"
    folder.mkdir()
    text = f"kind: Kustomization\nnamespace: team-a\nresources: [../{base}]\n"
    for added, rules in (("", {"address-other"}), (more, set())):
        (folder / "kustomization.yaml").write_text(text + added)
        cluster = Cluster(parse_manifests(yaml.safe_dump_all(build(folder)), "mine"))
        assert {finding.rule.id for finding in find_mistakes(cluster)} == rules


def test_the_overlay_gives_receivers_to_those_who_read_them(mine: tuple[str, list[Manifest]]) -> None:
    _, manifests = mine
    given = {}
    for name, pod in pods(manifests):
        if file := environment(pod).get("NOWSERVING_RECEIVERS_FILE"):
            (mount,) = [mount for mount in container(pod)["volumeMounts"] if mount["name"] == "receivers"]
            (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "receivers"]
            assert file == f"{mount['mountPath']}/receivers.toml"
            given[name] = volume["secret"]["secretName"]
    assert set(given) == {"nowserving-api", "nowserving-deliverer"}
    (secret,) = {*given.values()}
    assert [one for one in select(manifests, "Secret") if one["metadata"]["name"] == secret]


def test_the_first_look_is_as_long_as_is_said() -> None:
    local = build(KEDA / "overlays/local")
    assert f"| `apply` | {len(local)} lines that end in `created` |" in PAGE
    first = BLOCKS[0][1].replace("\\\n", " ").splitlines()
    assert len(first) < 10
    (scaled,) = select(local, "ScaledObject", "worker")
    assert scaled["spec"]["cooldownPeriod"] == 60
    assert scaled["spec"]["maxReplicaCount"] == 2
    (sed,) = [line for line in first if line.startswith("sed ")]
    assert sed.split("s/")[1].split("/")[0] in (KEDA / "base/kustomization.yaml").read_text()


def test_what_commands_name_is_in_the_manifests() -> None:
    there = {(one["kind"].lower(), one["metadata"]["name"]) for one in build(KEDA / "base")}
    named = re.findall(r"\b(deployment|service|statefulset|scaledobject)[/ ](nowserving-[\w-]+)", PAGE)
    assert len(named) > 5
    assert set(named) <= there
    assert "data-nowserving-redis-0" in PAGE
    assert {("statefulset", "nowserving-redis"), ("networkpolicy", "nowserving-redis")} <= there


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_gets_as_far_as_the_cluster(command: str, tmp_path: Path) -> None:
    words = shlex.split(command.replace("$(openssl rand -base64 32)", "secret"))
    environ = os.environ | {"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    asked = [kubectl(), f"--server={NOWHERE}", "--request-timeout=2s", *words[1:]]
    done = subprocess.run(asked, capture_output=True, text=True, env=environ, timeout=30)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
