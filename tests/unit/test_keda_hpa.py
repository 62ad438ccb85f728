"""The HPA's arithmetic, by the examples of Kubernetes' own documentation and tests."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from tests.keda.hpa import Hpa, Past, replicas_for
from tests.keda.operator import Metric
from tests.keda.scaled_object import SCALE_DOWN, SCALE_UP, Policy, Rules

ANY = Rules(0, (Policy("Percent", 1000, 60),))
ALL = Rules(0, (Policy("Percent", 100, 60),))


def hpa(up: Rules = ANY, down: Rules = ALL, most: int = 1000) -> Hpa:
    return Hpa(1, most, up, down)


def metric(value: float, target: float = 1) -> Metric:
    return Metric(int(value * 1000), int(target * 1000))


@pytest.mark.parametrize(
    ("value", "target", "replicas", "wanted"),
    [
        (8600, 2150, 3, 4),  # replica_calculator_test.go, external metrics per pod: up …
        (8600, 2867, 5, 3),  # … and down
        (7, 2, 0, 4),  # KEDA run for real: 7 queued, target 2
        (2.5, 1, 1, 3),
        (4.399, 1, 4, 4),  # within the tolerance of a tenth
        (4.401, 1, 4, 5),
        (3.6, 1, 4, 4),
        (3.599, 1, 4, 4),
        (3, 1, 4, 3),
        (0, 1, 4, 0),
    ],
)
def test_the_total_over_the_target_is_rounded_up_beyond_the_tolerance(
    value: float, target: float, replicas: int, wanted: int
) -> None:
    assert replicas_for(metric(value, target), replicas) == wanted


def test_at_zero_replicas_it_does_nothing() -> None:
    assert hpa().reconcile(0, 0, 0, [metric(9)]) == 0


def test_minimum_and_maximum_hold_before_any_metric() -> None:
    assert Hpa(2, 5, ANY, ANY).reconcile(0, 1, 1, [None]) == 2
    assert Hpa(2, 5, ANY, ANY).reconcile(0, 9, 9, [None]) == 5
    assert Hpa(2, 5, ANY, ANY).reconcile(0, 3, 3, [metric(99)]) == 5


def test_an_error_changes_nothing_and_half_an_error_never_shrinks() -> None:
    assert hpa().reconcile(0, 3, 3, [None]) == 3
    assert hpa().reconcile(0, 3, 3, [metric(1), None]) == 3
    assert hpa().reconcile(0, 3, 3, [metric(5), None]) == 5


def test_of_several_metrics_the_largest_counts_never_the_sum() -> None:
    assert hpa().reconcile(0, 1, 1, [metric(2), metric(3)]) == 3


def test_of_two_policies_down_the_larger_change_counts_as_in_the_documentation() -> None:
    """80 replicas: 10 % a minute till 40 are left, then 4 pods."""
    down = Rules(0, (Policy("Pods", 4, 60), Policy("Percent", 10, 60)))
    loop, replicas, counts = hpa(down=down), 80, [80]
    for minute in range(20):
        replicas = loop.reconcile(61.0 * minute, replicas, replicas, [metric(10)])
        counts.append(replicas)
    assert counts[:3] == [80, 72, 64]
    assert counts[-1] == 10
    slow = [before - after for before, after in pairwise(counts) if 14 <= after < before <= 40]
    assert slow
    assert set(slow) == {4}


def test_select_min_takes_the_smaller_change_and_disabled_none() -> None:
    policies = (Policy("Percent", 10, 60), Policy("Pods", 5, 60))
    assert hpa(down=Rules(0, policies, "Min")).reconcile(0, 100, 100, [metric(1)]) == 95
    assert hpa(down=Rules(0, policies, "Disabled")).reconcile(0, 100, 100, [metric(1)]) == 100
    assert hpa(up=Rules(0, policies, "Min")).reconcile(0, 100, 100, [metric(900)]) == 105
    assert hpa(up=Rules(0, policies, "Disabled")).reconcile(0, 100, 100, [metric(900)]) == 100


def test_by_default_it_grows_by_four_or_doubles_in_15_seconds() -> None:
    loop, replicas, counts = hpa(up=SCALE_UP), 1, []
    for sync in range(4):
        replicas = loop.reconcile(15.0 * sync, replicas, replicas, [metric(100)])
        counts.append(replicas)
    assert counts == [5, 10, 20, 40]


def test_a_policy_counts_what_its_period_has_changed_already() -> None:
    loop = hpa(up=Rules(0, (Policy("Pods", 4, 60),)))
    replicas, counts = 1, []
    for at in (0, 15, 30, 45, 60, 75):
        replicas = loop.reconcile(at, replicas, replicas, [metric(100)])
        counts.append(replicas)
    assert counts == [5, 5, 5, 5, 9, 9]


def test_five_minutes_of_higher_recommendations_hold_it_up() -> None:
    """horizontal_test.go TestNormalizeDesiredReplicas: 4 and 5 of the last minutes, 3 now."""
    loop = hpa(down=SCALE_DOWN)
    loop.recommendations = [Past(4, -120), Past(5, -60)]
    assert loop.stabilize(0, 5, 3) == 5
    loop.recommendations = [Past(1, -120), Past(2, -60)]
    assert loop.stabilize(0, 3, 3) == 3
    loop.recommendations = [Past(10, -600), Past(9, -540)]
    assert loop.stabilize(0, 5, 3) == 3


def test_a_window_upwards_takes_the_least_of_what_was_recommended() -> None:
    loop = hpa(up=Rules(60, ANY.policies))
    assert [loop.reconcile(at, 2, 2, [metric(9)]) for at in (0, 30, 59)] == [2, 2, 2]
    assert loop.reconcile(61, 2, 2, [metric(7)]) == 7


def test_scaling_down_begins_when_the_window_has_passed_and_goes_by_the_policy() -> None:
    down = Rules(300, (Policy("Pods", 1, 60),))
    loop, replicas, changes = hpa(down=down), 4, []
    for sync in range(60):
        at = 15.0 * sync
        wanted = loop.reconcile(at, replicas, replicas, [metric(4 if at < 60 else 1)])
        if wanted != replicas:
            changes.append((at, wanted))
        replicas = wanted
    assert changes == [(345, 3), (405, 2), (465, 1)]


def test_what_is_infinitely_over_the_target_is_no_error() -> None:
    assert math.isfinite(replicas_for(metric(3), 0))
