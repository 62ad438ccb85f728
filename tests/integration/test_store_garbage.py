"""Garbage thrown at the keys at random: each verb answers or raises an error of ours, and other jobs get their turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.answer import describe_look
from nowserving import keys, verb
from nowserving.describe import describe_job
from nowserving.errors import NowservingError, RecordError
from nowserving.job import Status, new_job_id
from nowserving.store import Store
from tests.board import ALWAYS, MODEL, at, enqueue, queue, reconcile, renew, taken_id

TARGETS = ("job_01k0000000000000000000000a", "job_01k0000000000000000000000b", "job_01k0000000000000000000000c")
PLACES = [keys.queue(MODEL), keys.queue(MODEL, "batch")]
PLACES += [prefix + MODEL for prefix in (keys.DELAYED, keys.STARTING, keys.RUNNING)]
KEYS = [*PLACES, keys.COLLAPSE, keys.SEQUENCE, keys.FINISHED, keys.MENDED, keys.TICK, keys.RECONCILER, keys.HELD + "w"]
KEYS += [prefix + MODEL for prefix in (keys.BUSY, keys.ALONE, keys.BLOCKED, keys.WORKERS, keys.ALIVE, keys.WAKE)]
KEYS += [prefix + MODEL for prefix in (keys.DEAD, keys.STATS)]
KEYS += [prefix + job_id for prefix in (keys.JOB, keys.EVENTS) for job_id in TARGETS]
# `jobs` is not among them: a job that is in no list and in no place is found by nobody.
HASHES = [
    key for key in KEYS if key.startswith((keys.BUSY, keys.ALONE, keys.WORKERS, keys.HELD, keys.MENDED, keys.STATS))
]

NUMBERS = ["", "0", "-1", "7", "1.5", "nan", "inf", "-inf", "0x10", "1e99", "9007199254740993", "9" * 30, " 3", "1_0"]
TEXTS = [
    "x",
    "job \n",
    "w",
    "c",
    "{}",
    "[]",
    "{",
    '{"slots": "x"}',
    '{"gate": 1}',
    "queued",
    "running",
    "failed",
    *TARGETS,
]
VALUES = st.one_of(st.sampled_from([*NUMBERS, *TEXTS]), st.binary(max_size=12))
SCORES = st.sampled_from([-1e300, -1.0, 0.0, 1.5, 1000.0, 1e12, 2.0**53, 1e300, float("inf"), float("-inf")])
FIELDS = [
    "v",
    "id",
    "model",
    "status",
    "lane",
    "sequence",
    "tokens",
    "claim",
    "worker",
    "taken_at",
    "started_at",
    "lease",
]
FIELDS += ["ran_seconds", "retain_seconds", "start_by", "attempt", "charged", "begun", "takes", "generated", "suspect"]
FIELDS += ["prompt_tokens", "finished_by", "input", "parameters", "created_at", "timeout_seconds", "output", "metadata"]

Act = Callable[[Store], object]


def _spoil(key: str, kind: str, value: Any) -> Act:
    def spoil(store: Store) -> None:
        client: redis.Redis = store.client
        client.delete(key)
        if kind == "string":
            client.set(key, value)
        elif kind == "list":
            client.lpush(key, value)
        elif kind == "set":
            client.sadd(key, value)
        elif kind == "hash":
            client.hset(key, value, value)
        elif kind == "zset":
            client.zadd(key, {value: 1})
        else:
            client.xadd(key, {value: value})

    return spoil


def _of_hash(key: str, field: Any, value: Any) -> Act:
    return lambda store: store.client.hset(key, field, value)


SPOILED = st.builds(
    _spoil, st.sampled_from(KEYS), st.sampled_from(["string", "list", "set", "hash", "zset", "stream"]), VALUES
)
FIELD_SET = st.builds(
    _of_hash, st.sampled_from(TARGETS).map(lambda job_id: keys.JOB + job_id), st.sampled_from(FIELDS), VALUES
)
FIELD_GONE = st.builds(
    lambda job_id, field: lambda store: store.client.hdel(keys.JOB + job_id, field),
    st.sampled_from(TARGETS),
    st.sampled_from(FIELDS),
)
STRANGER = st.builds(
    lambda key, member, score: lambda store: store.client.zadd(key, {member: score}),
    st.sampled_from([*PLACES, keys.COLLAPSE, keys.JOBS, keys.FINISHED, keys.ALIVE + MODEL, keys.BLOCKED + MODEL]),
    VALUES,
    SCORES,
)
STRANGE_WORD = st.builds(_of_hash, st.sampled_from(HASHES), VALUES, VALUES)
OUT_OF_PLACE = st.builds(
    lambda key, n: lambda store: store.client.zrem(key, *store.client.zrange(key, n, n) or ["-"]),
    st.sampled_from(PLACES),
    st.integers(0, 4),
)
GONE = st.builds(lambda key: lambda store: store.client.delete(key), st.sampled_from(KEYS))
GARBAGE = st.one_of(SPOILED, FIELD_SET, FIELD_GONE, STRANGER, STRANGE_WORD, OUT_OF_PLACE, GONE)


def _reap(store: Store) -> object:
    return store.run(verb.reap("me", [MODEL], period_seconds=0, max_attempts=3, reap_until=ALWAYS))


def _show(store: Store, job_id: str) -> None:
    look = store.run(verb.look(job_id))
    json.dumps(describe_look(look), allow_nan=False)


def _list(store: Store) -> None:
    json.dumps([describe_job(job) for job in store.run(verb.list_jobs(limit=100))[0]], allow_nan=False)


EVERY_VERB: list[Act] = [
    lambda store: taken_id(store, "c"),
    lambda store: taken_id(store, "d", worker="other"),
    lambda store: renew(store, "c", blocked=True),
    lambda store: renew(store, worker="other", draining=True, reap_until=ALWAYS),
    _reap,
    _list,
    enqueue,
    lambda store: json.dumps(store.run(verb.workers([MODEL])), allow_nan=False),
    lambda store: json.dumps([queue(store).oldest_wait_seconds, queue(store).run_seconds], allow_nan=False),
    lambda store: json.dumps(store.run(verb.mended()), allow_nan=False),
    lambda store: store.run(verb.leave(MODEL, "other")),
    reconcile,
    *(
        act
        for job_id in TARGETS
        for act in (
            lambda store, job_id=job_id: _show(store, job_id),
            lambda store, job_id=job_id: store.run(verb.begin(job_id, "c", 1)),
            lambda store, job_id=job_id: store.run(verb.progress(job_id, "c", 1, 2)),
            lambda store, job_id=job_id: store.run(verb.append(job_id, "c", 0, [1], "a")),
            lambda store, job_id=job_id: store.run(verb.read_events({job_id: "0"})),
            lambda store, job_id=job_id: store.run(verb.positions([job_id])),
            lambda store, job_id=job_id: store.run(verb.release(job_id, "c", "test", charge="charge", max_attempts=3)),
            lambda store, job_id=job_id: store.run(verb.finish(job_id, "d", Status.SUCCEEDED, {"text": ""})),
            lambda store, job_id=job_id: store.run(verb.cancel(job_id)),
            lambda store, job_id=job_id: enqueue(store, job_id, idempotency_key="k", fingerprint="f"),
        )
    ),
]


def _run(store: Store, act: Act) -> None:
    try:
        act(store)
    except NowservingError as error:
        if type(error) is NowservingError:  # Redis refused the script
            raise


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.one_of(GARBAGE, GARBAGE, st.sampled_from(EVERY_VERB)), min_size=1, max_size=8))
def test_no_garbage_stops_a_verb_or_a_job(store: Store, acts: list[Act]) -> None:
    store.client.flushall()
    store.now = "1000"
    bystanders = {enqueue(store), enqueue(store, lane="batch")}
    for job_id in TARGETS:
        enqueue(store, job_id, start_within_seconds=30)
    taken_id(store, "a", worker="w")
    bystanders.add(enqueue(store))
    for act in acts:
        if act in EVERY_VERB:
            _run(store, act)
        else:
            # What Redis itself refuses (a member for a key that is a list by now) has not happened.
            with suppress(redis.ResponseError):
                act(store)
    for act in EVERY_VERB:
        _run(store, act)
    for _ in range(3):
        reconcile(store)
    assert reconcile(store) == []
    ended = _work_all_off(store, bystanders)
    assert bystanders <= ended
    assert reconcile(store) == []


def _work_all_off(store: Store, wanted: set[str]) -> set[str]:
    """Time goes by and workers come, till nobody waits; the jobs they have brought to their end."""
    ended: set[str] = set()
    numbers = count()
    for turn in range(1, 8):
        at(store, 100 * turn)
        _reap(store)
        while (job_id := taken_id(store, f"late {(n := next(numbers))}", worker=f"late {n}")) is not None:
            assert n < 100
            if store.run(verb.finish(job_id, f"late {n}", Status.SUCCEEDED, {"text": ""})):
                ended.add(job_id)
        if wanted <= ended:
            return ended
    return ended


def test_a_repeated_post_of_a_job_whose_sequence_is_garbage_is_told_so(store: Store) -> None:
    job_id = enqueue(store, new_job_id(), idempotency_key="k", fingerprint="f")
    store.client.hset(keys.JOB + job_id, "sequence", "1.5")
    with pytest.raises(RecordError, match=r"its sequence is '1\.5'"):
        enqueue(store, new_job_id(), idempotency_key="k", fingerprint="f")
