"""A workload of pods, and what can be known of it: its environment, whose work it does, its devices, its end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nowserving import keys
from nowserving.keda.check.field import dig, items, mapping, number, text, whole, words
from nowserving.keda.check.manifest import Manifest
from nowserving.settings import Settings

KINDS = ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet", "Rollout")
GRACE_SECONDS = 30
"""What Kubernetes gives a pod that does not say."""

_QUEUE = re.compile(re.escape(keys.QUEUE) + r"([^\s\"',;]+)")
_WORKER = re.compile(r"\bnowserving worker ([\w.@-]+)")
_DELIVERER = re.compile(r"\bnowserving deliver\b")
_API = re.compile(r"\bapi\.app:app\b|\bnowserving api\b")
_REDIS = re.compile(r"(?:^|/)(?:redis|valkey|keydb|redis-stack-server|dragonfly)(?:[:@]|$)")
_GPU = re.compile(r"/(?:.*-)?gpu(?:\.|$)|/mig-|^gpu\.")
_VARIABLE = re.compile(r"\$\((\w+)\)")

Container = Mapping[str, Any]
Key = tuple[str, str, str]
"""A workload's namespace, kind and name."""


@dataclass(frozen=True)
class Workload:
    """A Deployment or the like."""

    manifest: Manifest
    settings: Mapping[tuple[str, str], Mapping[str, Any]]
    """The data of each ConfigMap there is, by namespace and name."""

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.manifest.namespace, self.manifest.kind, self.manifest.name

    @property
    def pod(self) -> dict[str, Any]:
        """Its pods' spec."""
        return mapping(self.manifest.spec, "template", "spec")

    @property
    def labels(self) -> dict[str, Any]:
        """Its pods' labels."""
        return mapping(self.manifest.spec, "template", "metadata", "labels")

    @property
    def containers(self) -> list[dict[str, Any]]:
        """The containers that run as long as the pod does."""
        first = [part for part in items(self.pod, "initContainers") if text(part, "restartPolicy") == "Always"]
        return first + items(self.pod, "containers")

    @property
    def grace_seconds(self) -> int:
        """From SIGTERM to SIGKILL."""
        found = whole(self.pod, "terminationGracePeriodSeconds")
        return GRACE_SECONDS if found is None else found

    @property
    def has_gpu(self) -> bool:
        """Does a pod of it need a GPU?"""
        return bool(self.devices) or bool(items(self.pod, "resourceClaims"))

    @property
    def devices(self) -> dict[str, float]:
        """The extended resources for GPUs that a pod asks for."""
        found: dict[str, float] = {}
        for container in self.containers:
            asked = mapping(container, "resources", "limits") | mapping(container, "resources", "requests")
            for name, amount in asked.items():
                if _GPU.search(name) and (count := number(amount)):
                    found[name] = found.get(name, 0) + count
        return found

    def environment(self, container: Container) -> dict[str, str | None]:
        """What a container's environment says; None where that stands in something that is not here."""
        found: dict[str, str | None] = {}
        for source in items(container, "envFrom"):
            data = self._config(text(source, "configMapRef", "name"))
            found |= {text(source, "prefix") + name: text(data, name) for name in data}
        for variable in items(container, "env"):
            name = text(variable, "name")
            if "valueFrom" not in variable:
                found[name] = _expand(text(variable, "value"), found)
                continue
            source = mapping(variable, "valueFrom", "configMapKeyRef")
            data = self._config(text(source, "name"))
            key = text(source, "key")
            found[name] = text(data, key) if key in data else None
        return found

    def setting(self, container: Container, name: str) -> float | None:
        """A setting of ours in seconds or the like; None if it is set, but not to be seen here."""
        variables = self.environment(container)
        variable = f"NOWSERVING_{name.upper()}"
        if variable in variables:
            return number(variables[variable])
        return number(Settings.model_fields[name].default)

    def command(self, container: Container) -> str:
        """What a container runs, as one line."""
        line = " ".join([*words(container, "command"), *words(container, "args")])
        return _expand(line, self.environment(container))

    def serves(self, container: Container) -> str:
        """The model whose jobs a container takes, or ""."""
        line = self.command(container)
        if found := _QUEUE.search(line) or _WORKER.search(line):
            return found[1]
        return keys.WEBHOOKS if _DELIVERER.search(line) else ""

    @property
    def is_api(self) -> bool:
        """Does it serve the API?"""
        return any(_API.search(self.command(container)) for container in self.containers)

    @property
    def own(self) -> list[dict[str, Any]]:
        """The containers that run our code; all of them, if their images say what they run."""
        found = [part for part in self.containers if self.serves(part) or _API.search(self.command(part))]
        return found or self.containers

    @cached_property
    def models(self) -> list[str]:
        """The models whose jobs its pods take."""
        return [model for container in self.containers if (model := self.serves(container))]

    def workers(self) -> Iterator[tuple[Container, str]]:
        """Its containers that are workers of ours, and their models."""
        for container in self.containers:
            if model := self.serves(container):
                yield container, model

    @property
    def is_redis(self) -> bool:
        """Is it a Redis, or one of its kin?"""
        return any(_is_redis(self, container) for container in self.containers)

    @property
    def redis(self) -> Container:
        """The container that is the Redis."""
        return next((container for container in self.containers if _is_redis(self, container)), {})

    def _config(self, name: str) -> Mapping[str, Any]:
        return self.settings.get((self.manifest.namespace, name), {})


def selects(selector: object, labels: Mapping[str, Any]) -> bool:
    """Does a label selector choose pods of these labels? An empty one chooses all; none at all chooses none."""
    if not isinstance(selector, dict):
        return False
    if any(labels.get(name) != wanted for name, wanted in mapping(selector, "matchLabels").items()):
        return False
    for term in items(selector, "matchExpressions"):
        key, operator, values = text(term, "key"), text(term, "operator"), words(term, "values")
        value = text(labels, key)
        fits = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not fits.get(operator, False):
            return False
    return True


def probe_command(probe: object) -> str:
    """What an exec probe or hook runs, as one line."""
    return " ".join(words(dig(probe, "exec"), "command"))


def _is_redis(workload: Workload, container: Container) -> bool:
    image, line = text(container, "image"), workload.command(container)
    return bool(_REDIS.search(image)) or bool(re.search(r"\b(?:redis|valkey|keydb)-server\b", line))


def _expand(value: str, known: Mapping[str, str | None]) -> str:
    """`$(NAME)` as Kubernetes fills it in, where that is known."""
    return _VARIABLE.sub(lambda match: known.get(match[1]) or match[0], value)
