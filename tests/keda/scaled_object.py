"""What a ScaledObject says, with KEDA's and Kubernetes' defaults for what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Select = Literal["Max", "Min", "Disabled"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """One `redis` trigger."""

    name: str
    list_name: str
    length: float
    activation: float


@dataclass(frozen=True, slots=True)
class Fallback:
    """What counts once a trigger has failed more than `failure_threshold` times in a row."""

    failure_threshold: int
    replicas: int
    behavior: str


@dataclass(frozen=True, slots=True)
class Policy:
    """At most so many pods, or so much of them, in a period."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """The HPA's for one direction."""

    stabilization_seconds: float
    policies: tuple[Policy, ...]
    select: Select = "Max"


# kubernetes pkg/apis/autoscaling/v2/defaults.go. Where a ScaledObject names no behavior the HPA has none either, and
# normalizeDesiredReplicas limits it to the larger of 4 and twice as many at each sync, which is nearly the same.
SCALE_UP = Rules(0, (Policy("Pods", 4, 15), Policy("Percent", 100, 15)))
SCALE_DOWN = Rules(300, (Policy("Percent", 100, 15),))


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """Defaults are those of kedacore/keda apis/keda/v1alpha1/*_types.go and pkg/scaling/executor."""

    triggers: tuple[Trigger, ...]
    formula: str = ""
    target: str = "1"
    activation_target: float = 0
    polling_seconds: float = 30
    cooldown_seconds: float = 300
    initial_cooldown_seconds: float = 0
    min_replicas: int = 0
    max_replicas: int = 100
    fallback: Fallback | None = None
    up: Rules = SCALE_UP
    down: Rules = SCALE_DOWN

    @property
    def hpa_min_replicas(self) -> int:
        """The HPA that KEDA makes never goes to zero: that is KEDA's own part."""
        return max(1, self.min_replicas)

    @classmethod
    def read(cls, manifest: Mapping[str, Any]) -> ScaledObject:
        """From a manifest, as YAML gives it."""
        spec = manifest["spec"]
        advanced = spec.get("advanced", {})
        modifiers = advanced.get("scalingModifiers", {})
        behavior = advanced.get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
        return cls(
            triggers=tuple(_trigger(trigger) for trigger in spec["triggers"]),
            formula=modifiers.get("formula", ""),
            target=modifiers.get("target", "1"),
            activation_target=float(modifiers.get("activationTarget") or 0),
            polling_seconds=spec.get("pollingInterval", 30),
            cooldown_seconds=spec.get("cooldownPeriod", 300),
            initial_cooldown_seconds=spec.get("initialCooldownPeriod", 0),
            min_replicas=spec.get("minReplicaCount", 0),
            max_replicas=spec.get("maxReplicaCount", 100),
            fallback=_fallback(spec.get("fallback")),
            up=_rules(behavior.get("scaleUp"), SCALE_UP),
            down=_rules(behavior.get("scaleDown"), SCALE_DOWN),
        )


def _trigger(trigger: Mapping[str, Any]) -> Trigger:
    """kedacore/keda pkg/scalers/redis_scaler.go redisMetadata."""
    assert trigger["type"] == "redis", "this models the redis scaler alone"
    metadata: Mapping[str, str] = trigger["metadata"]
    length, activation = metadata.get("listLength", 5), metadata.get("activationListLength", 0)
    return Trigger(trigger.get("name", metadata["listName"]), metadata["listName"], float(length), float(activation))


def _fallback(fallback: Mapping[str, Any] | None) -> Fallback | None:
    if fallback is None:
        return None
    return Fallback(fallback["failureThreshold"], fallback["replicas"], fallback.get("behavior", "static"))


def _rules(rules: Mapping[str, Any] | None, default: Rules) -> Rules:
    if rules is None:
        return default
    policies: Sequence[Mapping[str, Any]] = rules.get("policies", ())
    named = tuple(Policy(policy["type"], policy["value"], policy["periodSeconds"]) for policy in policies)
    return Rules(
        rules.get("stabilizationWindowSeconds", default.stabilization_seconds),
        named or default.policies,
        rules.get("selectPolicy", "Max"),
    )
