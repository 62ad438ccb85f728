"""A ScaledObject, and its triggers: which keys they read, where, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nowserving import keys
from nowserving.keda.check.field import dig, items, mapping, number, text, whole
from nowserving.keda.check.manifest import Manifest

PLAIN = ("redis", "redis-sentinel")
"""The trigger types that count a key by its type, on a Redis that is no cluster."""
POLLING_SECONDS = 30
COOLDOWN_SECONDS = 300
"""KEDA's own defaults."""

_PREFIXES = {
    "queued": keys.QUEUE,
    "delayed": keys.DELAYED,
    "running": keys.RUNNING,
    "busy": keys.BUSY,
    "blocked": keys.BLOCKED,
}
ROLES = (*_PREFIXES, "batch")


@dataclass(frozen=True)
class Trigger:
    """One trigger."""

    body: dict[str, Any]

    @property
    def type(self) -> str:
        """Which scaler."""
        return text(self.body, "type")

    @property
    def name(self) -> str:
        """Its name, by which a formula knows it."""
        return text(self.body, "name")

    @property
    def metadata(self) -> dict[str, Any]:
        """Its parameters."""
        return mapping(self.body, "metadata")

    @property
    def is_redis(self) -> bool:
        """Does it read from a Redis?"""
        return self.type.startswith("redis")

    @property
    def key(self) -> str:
        """The key it reads."""
        return text(self.metadata, "listName") or text(self.metadata, "stream")

    @property
    def role(self) -> str:
        """What the key counts: queued, batch, delayed, running, busy, blocked; "" if it is none of these."""
        return split_key(self.key)[0]

    @property
    def model(self) -> str:
        """The model whose key it is, or ""."""
        return split_key(self.key)[1]

    @property
    def is_misnamed(self) -> bool:
        """Does its name promise another key?"""
        return bool(self.role) and self.name in ROLES and self.name != self.role

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """The hosts and ports it names."""
        if host := text(self.metadata, "host") or text(self.metadata, "hosts"):
            ports = (text(self.metadata, "port") or text(self.metadata, "ports")).split(",")
            named = host.split(",")
            return [(part.strip(), ports[at].strip() if at < len(ports) else "") for at, part in enumerate(named)]
        given = text(self.metadata, "address") or text(self.metadata, "addresses")
        return [split_address(part.strip()) for part in given.split(",") if part.strip()]


@dataclass(frozen=True)
class Scaled:
    """One ScaledObject."""

    manifest: Manifest

    @cached_property
    def triggers(self) -> list[Trigger]:
        """Its triggers."""
        return [Trigger(found) for found in items(self.manifest.spec, "triggers")]

    @property
    def reads_ours(self) -> bool:
        """Does it read keys that are meant to be ours?"""
        return any(trigger.is_redis and (trigger.role or _looks_ours(trigger.key)) for trigger in self.triggers)

    @cached_property
    def model(self) -> str:
        """The model whose jobs it counts: the one most triggers name; "" if they name none."""
        named = [trigger.model for trigger in self.triggers if trigger.model]
        return max(named, key=named.count) if named else ""

    @property
    def target_kind(self) -> str:
        """The kind of what it scales."""
        return text(self.manifest.spec, "scaleTargetRef", "kind") or "Deployment"

    @property
    def target_name(self) -> str:
        """The name of what it scales."""
        return text(self.manifest.spec, "scaleTargetRef", "name")

    @property
    def minimum(self) -> int:
        """The fewest replicas."""
        return whole(self.manifest.spec, "minReplicaCount") or 0

    @property
    def maximum(self) -> int:
        """The most replicas."""
        found = whole(self.manifest.spec, "maxReplicaCount")
        return 100 if found is None else found

    @property
    def modifiers(self) -> dict[str, Any]:
        """Its scalingModifiers."""
        return mapping(self.manifest.spec, "advanced", "scalingModifiers")

    @property
    def formula(self) -> str:
        """Its formula, or ""."""
        return text(self.modifiers, "formula")

    @property
    def activation(self) -> float:
        """The value of the formula above which the first replica starts."""
        return number(self.modifiers.get("activationTarget")) or 0.0

    @property
    def polling_seconds(self) -> int:
        """How often it looks."""
        found = whole(self.manifest.spec, "pollingInterval")
        return POLLING_SECONDS if found is None else found

    @property
    def cooldown_seconds(self) -> int:
        """How long after the last sign of life it goes to zero."""
        found = whole(self.manifest.spec, "cooldownPeriod")
        return COOLDOWN_SECONDS if found is None else found

    @property
    def behavior(self) -> dict[str, Any]:
        """What it tells the HPA of up and down."""
        return mapping(self.manifest.spec, "advanced", "horizontalPodAutoscalerConfig", "behavior")

    @property
    def fallback(self) -> dict[str, Any] | None:
        """What holds when a trigger fails, if it says."""
        return mapping(self.manifest.spec, "fallback") if dig(self.manifest.spec, "fallback") is not None else None

    def reading(self, *roles: str) -> list[Trigger]:
        """The triggers that read keys of these roles."""
        return [trigger for trigger in self.triggers if trigger.role in roles]


def split_key(key: str) -> tuple[str, str]:
    """What a key of ours counts, and its model; two empty strings for any other key."""
    for role, prefix in _PREFIXES.items():
        if key.startswith(prefix) and (model := key.removeprefix(prefix)):
            if role == "queued" and model.endswith(keys.BATCH):
                return "batch", model.removesuffix(keys.BATCH)
            return role, model
    return "", ""


def name_key(role: str, model: str) -> str:
    """The key of that role."""
    return keys.queue(model, role) if role == "batch" else _PREFIXES[role] + model


def known_keys(model: str) -> list[str]:
    """The keys of a model that tell how much there is to do."""
    return [name_key(role, model) for role in ROLES]


def split_address(address: str) -> tuple[str, str]:
    """Host and port; the port is "" if there is none."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), port) if host and port.isdigit() else (address, "")


def _looks_ours(key: str) -> bool:
    """Is it one with a slip in it, or without our prefix? Others have keys such as app:delayed:mail."""
    own = tuple(prefix.removeprefix(keys.PREFIX) for prefix in (keys.BUSY, keys.BLOCKED, keys.DELAYED))
    return keys.PREFIX.strip(":") in key.lower() or key.startswith(own)
