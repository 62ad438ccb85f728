"""KEDA's part of the control loop: from none to one and back, errors, and what the HPA is told."""

from __future__ import annotations

from dataclasses import replace

import fakeredis
import pytest

from tests.keda.operator import Metric, Operator
from tests.keda.scaled_object import SCALE_DOWN, Fallback, Policy, Rules, ScaledObject, Trigger
from tests.keda.scaler import ScalerError, redis_scaler

QUEUE = Trigger("queued", "queue", 5, 0)
BUSY = Trigger("busy", "busy", 5, 0)
LENGTH = ScaledObject((QUEUE,))
FORMULA = ScaledObject((QUEUE, BUSY), formula="max(busy, queued / 4)", max_replicas=4)
FALLBACK = Fallback(3, 1, "currentReplicasIfHigher")


class Keys:
    """Counts that a test sets; a key set to None fails."""

    def __init__(self, **counts: int | None) -> None:
        self.counts = counts

    def __call__(self, key: str) -> int:
        count = self.counts[key]
        if count is None:
            raise ScalerError("no answer")
        return count


def test_a_key_counts_by_its_type() -> None:
    client = fakeredis.FakeRedis(decode_responses=True)
    client.zadd("zset", {"a": 1, "b": 2})
    client.hset("hash", "a", "1")
    client.rpush("list", "a", "b", "c")
    client.sadd("set", "a")
    client.set("string", "a")
    count = redis_scaler(client)
    assert [count(key) for key in ("zset", "hash", "list", "set", "nothing")] == [2, 1, 3, 1, 0]
    with pytest.raises(ScalerError):
        count("string")


def test_the_first_job_starts_the_least_number_and_the_cooldown_keeps_it() -> None:
    keys = Keys(queue=0)
    keda = Operator(LENGTH, keys, 0)
    assert keda.poll(0, 0) == 0
    keys.counts["queue"] = 1
    assert keda.poll(30, 0) == 1
    keys.counts["queue"] = 0
    assert [keda.poll(at, 1) for at in (60, 330, 331)] == [1, 1, 0]


def test_the_cooldown_counts_from_the_last_activity_and_ends_all_replicas_at_once() -> None:
    keys = Keys(queue=9)
    keda = Operator(LENGTH, keys, 0)
    assert keda.poll(100, 3) == 3
    keys.counts["queue"] = 0
    assert [keda.poll(at, 3) for at in (400, 401)] == [3, 0]


def test_what_was_never_active_is_stopped_without_a_cooldown() -> None:
    assert Operator(LENGTH, Keys(queue=0), 0).poll(1, 2) == 0
    patient = replace(LENGTH, initial_cooldown_seconds=60)
    assert [Operator(patient, Keys(queue=0), 0).poll(at, 2) for at in (60, 61)] == [2, 0]


def test_a_minimum_is_kept_and_restored() -> None:
    two = replace(LENGTH, min_replicas=2)
    assert [Operator(two, Keys(queue=count), 0).poll(0, 0) for count in (0, 9)] == [2, 2]
    assert Operator(two, Keys(queue=0), 0).poll(1000, 3) == 3


def test_activation_is_above_not_at_the_trigger_s_value() -> None:
    lazy = ScaledObject((replace(QUEUE, activation=5),))
    assert [Operator(lazy, Keys(queue=count), 0).poll(0, 0) for count in (5, 6)] == [0, 1]


def test_with_a_formula_its_result_activates_and_not_the_triggers() -> None:
    keys = Keys(queue=1, busy=0)
    assert Operator(FORMULA, keys, 0).poll(0, 0) == 1
    assert Operator(replace(FORMULA, formula="queued * 0"), keys, 0).poll(0, 0) == 0
    assert Operator(replace(FORMULA, activation_target=0.25), keys, 0).poll(0, 0) == 0


def test_a_result_below_a_thousandth_is_none() -> None:
    keys = Keys(queue=1, busy=0)
    assert Operator(replace(FORMULA, formula="queued / 1000"), keys, 0).poll(0, 0) == 1
    assert Operator(replace(FORMULA, formula="queued / 1001"), keys, 0).poll(0, 0) == 0


def test_the_hpa_is_told_the_formula_alone_or_each_trigger() -> None:
    keys = Keys(queue=6, busy=1)
    assert Operator(FORMULA, keys, 0).metrics(1) == [Metric(1500, 1000)]
    assert Operator(ScaledObject((QUEUE, BUSY)), keys, 0).metrics(1) == [Metric(6000, 5000), Metric(1000, 5000)]


def test_an_error_without_fallback_changes_nothing_however_long_it_lasts() -> None:
    keda = Operator(FORMULA, Keys(queue=None, busy=0), 0)
    assert [keda.poll(at, 2) for at in range(0, 3000, 30)] == [2] * 100
    assert keda.metrics(2) == [None]
    assert Operator(FORMULA, Keys(queue=None, busy=0), 0).poll(0, 0) == 0


def test_after_the_threshold_the_fallback_keeps_what_runs_and_starts_one() -> None:
    safe = replace(FORMULA, fallback=FALLBACK)
    for replicas, told in ((3, 3000), (0, 1000)):
        keda = Operator(safe, Keys(queue=None, busy=None), 0)
        assert [keda.poll(at, replicas) for at in (0, 5, 10)] == [replicas] * 3
        assert keda.poll(15, replicas) == max(1, replicas)
        assert keda.metrics(replicas) == [Metric(told, 1000)]


def test_one_answer_ends_the_count_of_failures() -> None:
    keys = Keys(queue=None, busy=0)
    keda = Operator(replace(FORMULA, fallback=FALLBACK), keys, 0)
    for at in (0, 5, 10):
        keda.poll(at, 2)
    keys.counts["queue"] = 4
    assert keda.metrics(2) == [Metric(1000, 1000)]
    keys.counts["queue"] = None
    assert keda.metrics(2) == [None]


@pytest.mark.parametrize("target", ["1.0", "0.5"])
def test_a_target_that_is_no_whole_number_switches_the_fallback_off(target: str) -> None:
    keda = Operator(replace(FORMULA, target=target, fallback=FALLBACK), Keys(queue=None, busy=None), 0)
    assert [keda.metrics(2) for _ in range(10)] == [[None]] * 10


def test_a_fallback_of_none_lets_an_error_stop_everything() -> None:
    """KEDA's RequestScale spares what runs only for a fallback above zero."""
    keda = Operator(replace(FORMULA, fallback=replace(FALLBACK, replicas=0)), Keys(queue=None, busy=None), 0)
    assert keda.poll(1, 3) == 0


def test_a_manifest_is_read_with_keda_s_defaults() -> None:
    trigger = {"type": "redis", "metadata": {"listName": "queue"}}
    plain = ScaledObject.read({"spec": {"triggers": [trigger]}})
    assert plain == ScaledObject((Trigger("queue", "queue", 5, 0),))
    assert (plain.polling_seconds, plain.cooldown_seconds, plain.max_replicas, plain.down) == (30, 300, 100, SCALE_DOWN)
    behavior = {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}
    advanced = {"horizontalPodAutoscalerConfig": {"behavior": behavior}}
    slow = ScaledObject.read({"spec": {"triggers": [trigger], "advanced": advanced}})
    assert slow.down == Rules(300, (Policy("Pods", 1, 60),))
