"""KEDA's operator: looks at the triggers, moves the Deployment between none and some, and tells the HPA the metric.

Follows kedacore/keda pkg/scaling/scale_handler.go (getScaledObjectState, GetScaledObjectMetrics),
pkg/scaling/executor/scale_scaledobjects.go (RequestScale), pkg/scaling/modifiers/formula.go, pkg/fallback/fallback.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.keda.expression import ExpressionError, evaluate
from tests.keda.scaled_object import ScaledObject, Trigger
from tests.keda.scaler import Count, ScalerError


class MetricError(Exception):
    """The HPA gets an error in place of a metric, and changes nothing."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One external metric, in thousandths as Kubernetes' quantities are, and its AverageValue target."""

    milli: int
    target_milli: int


@dataclass(slots=True)
class Look:
    """One look at all triggers."""

    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """Of triggers that failed and that no fallback stands in for."""
    fallback_milli: int | None = None


class Operator:
    """For one ScaledObject. `count` reads a key; times are seconds on one clock."""

    def __init__(self, scaled: ScaledObject, count: Count, now: float) -> None:
        self.last_active_at: float | None = None
        self.last = Look()
        """What the last poll or the HPA's last question saw."""
        self._scaled, self._count, self._created_at = scaled, count, now
        self._failures: dict[str, int] = {}

    def poll(self, now: float, replicas: int) -> int:
        """Look once; the replicas the Deployment has afterwards (RequestScale)."""
        scaled = self._scaled
        look = self._look(scaled.triggers, replicas)
        if self._is_active(look):
            if replicas == 0:
                replicas = scaled.hpa_min_replicas
            self.last_active_at = now
            return replicas
        if look.errors and (scaled.fallback is None or scaled.fallback.replicas):
            return replicas
        if replicas and scaled.min_replicas == 0:
            return 0 if self._is_cool(now) else replicas
        return max(replicas, scaled.min_replicas)

    def metrics(self, replicas: int) -> list[Metric | None]:
        """What the HPA is told when it asks; None for a metric that is an error."""
        scaled = self._scaled
        if not scaled.formula:
            return [self._metric(trigger, replicas) for trigger in scaled.triggers]
        look = self._look(scaled.triggers, replicas)
        milli = self._composite(look)
        return [None if milli is None else Metric(milli, int(float(scaled.target) * 1000))]

    def _metric(self, trigger: Trigger, replicas: int) -> Metric | None:
        look = self._look((trigger,), replicas)
        if trigger.name in look.errors:
            return None
        milli = look.fallback_milli if look.fallback_milli is not None else int(look.values[trigger.name] * 1000)
        return Metric(milli, int(trigger.length * 1000))

    def _is_active(self, look: Look) -> bool:
        """With a formula its result counts, unless a trigger fails; without, any trigger above its activation."""
        scaled = self._scaled
        if scaled.formula:
            milli = None if look.errors else self._composite(look)
            return milli is not None and milli / 1000 > scaled.activation_target
        if look.fallback_milli is not None:
            return True
        return any(look.values.get(trigger.name, 0) > trigger.activation for trigger in scaled.triggers)

    def _is_cool(self, now: float) -> bool:
        if self.last_active_at is None:
            return self._created_at + self._scaled.initial_cooldown_seconds < now
        return self.last_active_at + self._scaled.cooldown_seconds < now

    def _composite(self, look: Look) -> int | None:
        """The formula's result cut to thousandths (formula.go SetMilli), or the fallback's in its place."""
        if look.fallback_milli is not None:
            return look.fallback_milli
        if look.errors:
            return None
        try:
            return int(evaluate(self._scaled.formula, look.values) * 1000)
        except ExpressionError:
            return None

    def _look(self, triggers: tuple[Trigger, ...], replicas: int) -> Look:
        look = Look()
        for trigger in triggers:
            try:
                look.values[trigger.name] = self._count(trigger.list_name)
                self._failures[trigger.name] = 0
            except ScalerError as error:
                self._failures[trigger.name] = self._failures.get(trigger.name, 0) + 1
                stands_in = self._stands_in(trigger, replicas)
                if stands_in is None:
                    look.errors[trigger.name] = str(error)
                elif look.fallback_milli is None:
                    look.fallback_milli = stands_in
        self.last = look
        return look

    def _stands_in(self, trigger: Trigger, replicas: int) -> int | None:
        """What stands in for a failed trigger (GetMetricsWithFallback, doFallback); None: nothing, or not yet."""
        fallback, target = self._scaled.fallback, self._scaled.target
        # A target that is no whole number switches the fallback off, silently but for a log line.
        valid = fallback is not None and (not self._scaled.formula or bool(re.fullmatch(r"\+?0*[1-9]\d*", target)))
        if fallback is None or not valid or self._failures[trigger.name] <= fallback.failure_threshold:
            return None
        wanted: Mapping[str, int] = {
            "static": fallback.replicas,
            "currentReplicas": replicas,
            "currentReplicasIfHigher": max(replicas, fallback.replicas),
            "currentReplicasIfLower": min(replicas, fallback.replicas),
        }
        normal = float(target) if self._scaled.formula else trigger.length
        return int(normal * 1000 * wanted[fallback.behavior])
