"""Whom a ReplicaSet stops: the pairs of kubernetes pkg/controller/controller_utils_test.go, and our own case."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from tests.keda.replica_set import DELETION_COST, Pod, compare, cost, victims

NOW = 1e9
HOUR, MONTH = 3600.0, 30 * 86400.0
UNSCHEDULED = Pod("unscheduled")
PENDING = Pod("pending", "node")
UNKNOWN = Pod("unknown-phase", "node", "Unknown")
NOT_READY = Pod("not-ready", "node", "Running")
READY_NEVER = Pod("ready-no-last-transition-time", "node", "Running", True)
READY_NOW = Pod("ready-now", "node", "Running", True, NOW, 0, NOW)
READY_THEN = Pod("ready-then", "node", "Running", True, NOW - MONTH, 0, NOW - MONTH)
RESTARTED = replace(READY_NOW, name="ready-high-restarts", restarts=9001)
CREATED_THEN = replace(READY_NOW, name="ready-now-created-then", created_at=NOW - MONTH)
CHEAP = replace(CREATED_THEN, name="low-deletion-cost", annotations={DELETION_COST: "10"})
DEAR = replace(CREATED_THEN, name="high-deletion-cost", annotations={DELETION_COST: "100"})
READY_2, READY_5, READY_8 = (
    Pod(f"ready-{hours}-hours", "", "Running", True, NOW - hours * HOUR, 0, NOW - MONTH) for hours in (2, 5, 8)
)


@pytest.mark.parametrize(
    ("first", "rank", "second", "other_rank"),
    [
        (UNSCHEDULED, 1, PENDING, 2),
        (UNSCHEDULED, 2, PENDING, 1),
        (PENDING, 1, UNKNOWN, 2),
        (UNKNOWN, 1, NOT_READY, 2),
        (NOT_READY, 1, READY_NEVER, 1),
        (READY_NEVER, 1, READY_NOW, 1),
        (READY_NOW, 2, READY_NEVER, 1),
        (READY_NOW, 1, READY_THEN, 1),
        (READY_NOW, 2, READY_THEN, 1),
        (RESTARTED, 1, READY_NOW, 1),
        (READY_NOW, 2, RESTARTED, 1),
        (READY_NOW, 1, CREATED_THEN, 1),
        (CREATED_THEN, 2, READY_NOW, 1),
        (CHEAP, 2, DEAR, 1),
        (READY_2, 1, READY_5, 1),
    ],
    ids=lambda value: value.name if isinstance(value, Pod) else str(value),
)
def test_the_first_is_stopped_before_the_second(first: Pod, rank: int, second: Pod, other_rank: int) -> None:
    assert compare(first, second, rank, other_rank, NOW) < 0
    assert compare(second, first, other_rank, rank, NOW) > 0


@pytest.mark.parametrize(("one", "other"), [(READY_NOW, READY_NOW), (UNSCHEDULED, UNSCHEDULED), (READY_5, READY_8)])
def test_nothing_tells_these_apart(one: Pod, other: Pod) -> None:
    assert compare(one, other, 1, 1, NOW) == compare(other, one, 1, 1, NOW) == 0


@pytest.mark.parametrize(
    ("value", "worth"),
    [("100", 100), ("-5", -5), ("0", 0), ("+5", 0), ("008", 0), ("1e3", 0), ("", 0), ("2147483648", 0), ("x", 0)],
)
def test_a_cost_that_is_no_plain_whole_number_is_none(value: str, worth: int) -> None:
    assert cost(replace(READY_NOW, annotations={DELETION_COST: value})) == worth


def test_a_busy_worker_outlives_idle_ones_whatever_their_age_but_not_if_it_is_not_ready() -> None:
    idle = [replace(READY_THEN, name=f"idle-{index}", uid=f"{index}") for index in range(3)]
    busy = replace(READY_NOW, name="busy", annotations={DELETION_COST: "100"}, uid="9")
    pods = [*idle, busy]
    for seed in range(10):
        Random(seed).shuffle(pods)
        assert {pod.name for pod in victims(pods, 3, NOW)} == {"idle-0", "idle-1", "idle-2"}
    assert victims([*idle, replace(busy, ready=False)], 1, NOW)[0].name == "busy"


def test_who_shares_a_node_goes_before_who_has_one_alone() -> None:
    pair = [replace(READY_THEN, name=f"pair-{index}") for index in range(2)]
    alone = replace(READY_NOW, name="alone", node="other")
    assert {pod.name for pod in victims([alone, *pair], 2, NOW)} == {"pair-0", "pair-1"}
