"""The contract of the scripts, on fakeredis and on a real Redis: what strangers leave in our keys stops no verb."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import redis

from nowserving import keys, verb
from nowserving.errors import RecordError
from nowserving.store import Store
from tests.board import LEASE, MODEL, at, enqueue, goes_on, look, queue, reap, reconcile, renew, take, taken_id

QUEUE = keys.queue(MODEL)
PICKLE = pickle.dumps({"task": "nowserving.generate", "id": 7, "\xff": b"\x00\xfe"}, protocol=4)


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    store.now = "1000"


def spoil_with_list(client: redis.Redis, key: str) -> None:
    client.delete(key)
    client.lpush(key, PICKLE)


def spoil_with_string(client: redis.Redis, key: str) -> None:
    client.set(key, PICKLE)


def spoil_with_set(client: redis.Redis, key: str) -> None:
    client.delete(key)
    client.sadd(key, PICKLE)


SPOILS = [spoil_with_list, spoil_with_string, spoil_with_set]
VERBS: dict[str, Callable[[Store], object]] = {
    "enqueue": enqueue,
    "take": lambda store: take(store, "x"),
    "renew": lambda store: renew(store, blocked=True),
    "reap": reap,
    "queues": queue,
    "workers": lambda store: store.run(verb.workers([MODEL])),
    "list": lambda store: store.run(verb.list_jobs()),
    "leave": lambda store: store.run(verb.leave(MODEL, "w")),
    "reconcile": reconcile,
    "reconcile, alone": lambda store: store.run(verb.reconcile("me", [MODEL], hold_seconds=60)),
    "mended": lambda store: store.run(verb.mended()),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("verb_name", VERBS)
@pytest.mark.parametrize("lane", ["", keys.BATCH])
def test_a_queue_that_another_client_has_made_something_else_is_put_right(
    store: Store, spoil: Callable[[redis.Redis, str], None], verb_name: str, lane: str
) -> None:
    spoil(store.client, QUEUE + lane)
    VERBS[verb_name](store)
    goes_on(store)
    assert queue(store).dead == 1
    (why,) = store.client.hvals(keys.DEAD + MODEL)
    assert "of that name" in why
    assert store.run(verb.mended()) == {"wrong_type": 1}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize(
    "key",
    [
        *(
            prefix + MODEL
            for prefix in (keys.DELAYED, keys.STARTING, keys.RUNNING, keys.BUSY, keys.ALONE, keys.BLOCKED)
        ),
        *(prefix + MODEL for prefix in (keys.WORKERS, keys.ALIVE, keys.WAKE, keys.DEAD, keys.STATS)),
        *(keys.JOBS, keys.FINISHED, keys.COLLAPSE, keys.SEQUENCE, keys.MENDED, keys.RECONCILER, keys.HELD + "w"),
    ],
)
def test_any_key_of_another_type_is_put_right(
    store: Store, spoil: Callable[[redis.Redis, str], None], key: str
) -> None:
    runs, waits = enqueue(store), enqueue(store)
    assert taken_id(store, "c") == runs
    renew(store, "c", blocked=True)
    spoil(store.client, key)
    for run in VERBS.values():
        run(store)
    at(store, LEASE + 1)
    reap(store)
    assert reconcile(store) == []
    found = [taken_id(store, f"d{i}", worker=f"d{i}") for i in range(4)]
    assert found[:2] == [runs, waits]
    goes_on(store)
    of_its_type = key == keys.RECONCILER and spoil is spoil_with_string
    assert store.run(verb.mended()).get("wrong_type") == (None if of_its_type else 1)


def test_of_a_long_list_a_part_is_kept_and_the_rest_is_counted(store: Store) -> None:
    store.client.rpush(QUEUE, *(f"{i} {'x' * 1000}" for i in range(5000)))
    goes_on(store)
    assert queue(store).dead == 5000
    assert store.client.hlen(keys.DEAD + MODEL) == 101
    assert max(map(len, store.client.hvals(keys.DEAD + MODEL))) <= 250


def test_what_is_set_aside_is_bounded(store: Store) -> None:
    for page in range(13):
        store.client.zadd(QUEUE, {f"{page} {i}": 1 for i in range(100)})
        assert taken_id(store, "c") is None
    assert queue(store).depth == 0
    assert queue(store).dead == 1300
    assert store.client.hlen(keys.DEAD + MODEL) == 1001
    goes_on(store)


def test_bytes_that_are_no_text_reach_no_reader(store: Store) -> None:
    store.client.zadd(QUEUE, {PICKLE: 1})
    store.client.zadd(keys.RUNNING + MODEL, {PICKLE[::-1]: 1})
    store.client.hset(keys.ALONE + MODEL, b"\xff", b"\xfe")
    store.client.zadd(keys.ALIVE + MODEL, {b"\xfa": "inf"})
    goes_on(store)
    reap(store)
    assert {what.isascii() for _, what in reconcile(store)} == {True}
    assert {str(why).isprintable() for entry in store.client.hgetall(keys.DEAD + MODEL).items() for why in entry} == {
        True
    }


@pytest.mark.parametrize("field", ["metadata", "input", "worker", "a field of nobody"])
def test_a_record_with_bytes_that_are_no_text_harms_no_other(store: Store, field: str) -> None:
    spoilt, other = enqueue(store), enqueue(store)
    store.client.hset(keys.JOB + spoilt, field, b'{"a": "\xff\xfe"}')
    assert store.run(verb.list_jobs())[0][0].id == other
    try:
        look(store, spoilt)
    except RecordError:
        assert field == "input"
    assert [taken_id(store, "a"), taken_id(store, "b")] == [spoilt, other]
