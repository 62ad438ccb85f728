"""The Horizontal Pod Autoscaler for metrics of type External with an AverageValue, which is what KEDA makes.

Follows kubernetes pkg/controller/podautoscaler/horizontal.go and replica_calculator.go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.keda.operator import Metric
from tests.keda.scaled_object import Rules

SYNC_SECONDS = 15
"""kube-controller-manager --horizontal-pod-autoscaler-sync-period."""
TOLERANCE = 0.1


def replicas_for(metric: Metric, status_replicas: int, tolerance: float = TOLERANCE) -> int:
    """GetExternalPerPodMetricReplicas: the total over the target, rounded up, unless that is near what there is."""
    whole = metric.target_milli * status_replicas
    ratio = metric.milli / whole if whole else math.inf
    if abs(1.0 - ratio) <= tolerance:
        return status_replicas
    return math.ceil(metric.milli / metric.target_milli)


@dataclass(frozen=True, slots=True)
class Past:
    """A recommendation, or a change of so many replicas, and when."""

    replicas: int
    at: float


@dataclass(slots=True)
class Hpa:
    """One HPA with its memory. `reconcile` is called every SYNC_SECONDS."""

    min_replicas: int
    max_replicas: int
    up: Rules
    down: Rules
    tolerance: float = TOLERANCE
    recommendations: list[Past] = field(default_factory=list)
    ups: list[Past] = field(default_factory=list)
    downs: list[Past] = field(default_factory=list)

    def reconcile(self, now: float, spec_replicas: int, status_replicas: int, metrics: Sequence[Metric | None]) -> int:
        """The replicas it sets (reconcileAutoscaler). None stands for a metric that could not be got."""
        if not self.recommendations:
            self.recommendations.append(Past(spec_replicas, now))
        if spec_replicas == 0:
            return 0  # scaling is disabled: from here only KEDA comes back
        if spec_replicas > self.max_replicas:
            wanted = self.max_replicas
        elif spec_replicas < self.min_replicas:
            wanted = self.min_replicas
        else:
            proposed = self._propose(spec_replicas, status_replicas, metrics)
            if proposed is None:
                return spec_replicas
            wanted = self.limit(now, spec_replicas, self.stabilize(now, spec_replicas, proposed))
        if wanted > spec_replicas:
            self.ups.append(Past(wanted - spec_replicas, now))
        elif wanted < spec_replicas:
            self.downs.append(Past(spec_replicas - wanted, now))
        return wanted

    def _propose(self, spec_replicas: int, status_replicas: int, metrics: Sequence[Metric | None]) -> int | None:
        """The largest of all metrics (computeReplicasForMetrics); with one missing it must not shrink."""
        known = [replicas_for(metric, status_replicas, self.tolerance) for metric in metrics if metric]
        if not known or (len(known) < len(metrics) and max(known) < spec_replicas):
            return None
        return max(known)

    def stabilize(self, now: float, current: int, proposed: int) -> int:
        """stabilizeRecommendationWithBehaviors: no higher than the least, no lower than the most, of each window."""
        ups, downs = self.up.stabilization_seconds, self.down.stabilization_seconds
        least = min([proposed, *(past.replicas for past in self.recommendations if past.at > now - ups)])
        most = max([proposed, *(past.replicas for past in self.recommendations if past.at > now - downs)])
        longest = max(ups, downs)
        self.recommendations = [past for past in self.recommendations if past.at >= now - longest]
        self.recommendations.append(Past(proposed, now))
        return min(max(current, least), most)

    def limit(self, now: float, current: int, wanted: int) -> int:
        """convertDesiredReplicasWithBehaviorRate: what policies, minimum and maximum leave of it."""
        if wanted > current:
            most = max(current, self._limit_up(now, current))
            return min(wanted, self.max_replicas, most)
        if wanted < current:
            least = min(current, self._limit_down(now, current))
            return max(wanted, self.min_replicas, least)
        return wanted

    def _limit_up(self, now: float, current: int) -> int:
        """calculateScaleUpLimitWithScalingRules."""
        choose: Callable[[Sequence[int]], int] = min if self.up.select == "Min" else max
        if self.up.select == "Disabled":
            return current
        limits = []
        for policy in self.up.policies:
            before = self._at_start(now, current, policy.period_seconds)
            pods = before + policy.value
            limits.append(pods if policy.kind == "Pods" else math.ceil(before * (1 + policy.value / 100)))
        return choose(limits)

    def _limit_down(self, now: float, current: int) -> int:
        """calculateScaleDownLimitWithBehaviors."""
        choose: Callable[[Sequence[int]], int] = max if self.down.select == "Min" else min
        if self.down.select == "Disabled":
            return current
        limits = []
        for policy in self.down.policies:
            before = self._at_start(now, current, policy.period_seconds)
            pods = before - policy.value
            limits.append(pods if policy.kind == "Pods" else int(before * (1 - policy.value / 100)))
        return choose(limits)

    def _at_start(self, now: float, current: int, period_seconds: float) -> int:
        """How many there were when the period began (getReplicasChangePerPeriod)."""
        added = sum(past.replicas for past in self.ups if past.at > now - period_seconds)
        removed = sum(past.replicas for past in self.downs if past.at > now - period_seconds)
        return current - added + removed
