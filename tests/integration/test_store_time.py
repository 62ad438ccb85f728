"""The contract of the scripts, on fakeredis and on a real Redis: what time, death and strangers do."""

from __future__ import annotations

import pytest

from nowserving import keys, verb
from nowserving.errors import (
    JobNotFoundError,
    UnsuitableRedisError,
)
from nowserving.job import Status
from nowserving.store import Store, judge
from tests.board import ALWAYS, LEASE, MODEL, at, enqueue, look, queue, reap, renew, taken_id


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    store.now = "1000"


def test_a_dead_workers_job_is_queued_again_at_its_old_place(store: Store) -> None:
    first, second = enqueue(store), enqueue(store)
    assert taken_id(store, "c", worker="dead") == first
    at(store, LEASE - 1)
    assert reap(store).requeued == 0
    at(store, LEASE + 1)
    assert reap(store).requeued == 1
    stands = queue(store)
    assert (stands.depth, stands.running, stands.busy) == (2, 0, 0)
    assert [taken_id(store, "d"), taken_id(store, "e", worker="other")] == [first, second]


def test_renew_extends_what_is_held_and_names_the_rest(store: Store) -> None:
    first, second = enqueue(store), enqueue(store)
    taken_id(store, "a")
    taken_id(store, "b")
    at(store, LEASE - 1)
    beat = renew(store, "a", "gone")
    assert beat.lost == ("gone",)
    assert beat.strangers == (("b", second),)
    at(store, LEASE + 1)
    assert reap(store).requeued == 1
    assert (look(store, first).status, look(store, second).status) == (Status.RUNNING, Status.QUEUED)


def test_a_worker_is_busy_blocked_and_alive_as_it_says(store: Store) -> None:
    enqueue(store)
    taken_id(store, "a")
    renew(store, "a", blocked=True)
    stands = queue(store)
    assert (stands.busy, stands.blocked) == (1, 1)
    assert store.run(verb.workers([MODEL])) == [{"name": "w", "model": MODEL, "slots": 1}]
    renew(store, "a", draining=True)
    assert (queue(store).busy, queue(store).blocked) == (0, 0)
    at(store, LEASE + 1)
    assert store.run(verb.workers([MODEL])) == []


def test_a_silent_worker_is_busy_till_its_last_lease_has_ended(store: Store) -> None:
    first, second = enqueue(store), enqueue(store)
    taken_id(store, "a")
    renew(store, "a")
    at(store, LEASE / 2)
    assert taken_id(store, "b") == second
    at(store, LEASE + 1)
    reap(store)
    assert (look(store, first).status, look(store, second).status) == (Status.QUEUED, Status.RUNNING)
    assert (store.run(verb.workers([MODEL])), queue(store).busy) == ([], 1)
    at(store, 2 * LEASE)
    reap(store)
    assert (look(store, second).status, queue(store).busy) == (Status.QUEUED, 0)


def test_a_worker_that_leaves_hands_back_uncharged(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    store.run(verb.begin(job_id, "a", 1))
    renew(store, "a")
    assert store.run(verb.leave(MODEL, "w")) == 1
    job = look(store, job_id)
    assert (job.status, job.attempt) == (Status.QUEUED, 0)
    assert not [key for key in store.client.scan_iter("*") if "held" in key or "busy" in key or "alive" in key]


def test_a_released_job_waits_at_its_place_or_for_its_time(store: Store) -> None:
    first, second = enqueue(store), enqueue(store)
    taken_id(store, "a")
    assert store.run(verb.release(first, "a", "test", tokens=77))
    assert look(store, first).tokens == 77
    assert taken_id(store, "b") == first
    assert store.run(verb.release(first, "b", "test", charge="charge", max_attempts=3))
    assert queue(store).delayed == 1
    assert taken_id(store, "c") == second
    store.run(verb.cancel(second))
    at(store, 2)
    reap(store)
    assert taken_id(store, "d") == first


def test_a_job_not_started_in_time_expires(store: Store) -> None:
    in_tick, in_take = enqueue(store, start_within_seconds=5), enqueue(store, start_within_seconds=8)
    at(store, 6)
    assert reap(store).expired == 1
    assert look(store, in_tick).status is Status.EXPIRED
    at(store, 9)
    assert taken_id(store, "a") is None
    assert look(store, in_take).status is Status.EXPIRED


def test_an_ended_job_is_forgotten_after_its_time(store: Store) -> None:
    job_id = enqueue(store)
    store.run(verb.cancel(job_id))
    assert store.client.ttl(keys.JOB + job_id) > 0
    at(store, 86_401)
    assert reap(store).forgotten == 1
    with pytest.raises(JobNotFoundError):
        look(store, job_id)
    assert store.run(verb.list_jobs()) == ([], None)


def test_no_key_of_an_unfinished_job_expires(store: Store) -> None:
    enqueue(store, start_within_seconds=60)
    enqueue(store)
    taken_id(store, "a")
    renew(store, "a", blocked=True)
    expiring = {key for key in store.client.scan_iter("*") if store.client.ttl(key) != -1}
    assert expiring <= {keys.TICK}


def test_the_tick_is_shared(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    at(store, LEASE + 1)
    first = store.run(verb.reap("one", [MODEL], period_seconds=60, max_attempts=3, reap_until=ALWAYS))
    assert first.requeued == 1
    assert taken_id(store, "b") == job_id
    at(store, 2 * LEASE + 2)
    assert store.run(verb.reap("two", [MODEL], period_seconds=60, max_attempts=3, reap_until=ALWAYS)).requeued == 0


@pytest.mark.parametrize("where", ["", ":batch"])
def test_strangers_in_a_queue_are_set_aside(store: Store, where: str) -> None:
    key = keys.queue(MODEL) + where
    store.client.zadd(key, {"job_gone": 1, "nonsense": 2})
    store.client.set(keys.JOB + "nonsense", "a string, not a hash")
    job_id = enqueue(store)
    assert taken_id(store, "a") == job_id
    assert taken_id(store, "b") is None
    assert store.client.zcard(key) == 0
    assert set(store.client.hgetall(keys.DEAD + MODEL)) == {"job_gone", "nonsense"}


def test_a_record_of_a_newer_version_stays_queued(store: Store) -> None:
    newer, job_id = enqueue(store), enqueue(store)
    store.client.hset(keys.JOB + newer, "v", "99")
    assert taken_id(store, "a") == job_id
    assert taken_id(store, "b") is None
    assert store.client.zscore(keys.queue(MODEL), newer) is not None


def test_what_a_queued_job_waits_for_is_shown(store: Store) -> None:
    enqueue(store, lane="batch")
    ahead, job_id = enqueue(store), enqueue(store)
    renew(store, blocked=True)
    wait = store.run(verb.look(job_id)).wait
    assert wait is not None
    assert (wait.position, wait.depth, wait.workers) == (1, 3, ({"slots": 1},))
    assert store.run(verb.look(ahead)).wait is not None


def test_pages_list_every_job_once(store: Store) -> None:
    ids = [enqueue(store) for _ in range(25)]
    store.run(verb.cancel(ids[3]))
    seen: list[str] = []
    cursor: int | None = None
    for _ in range(10):
        page, cursor = store.run(verb.list_jobs(before=cursor, limit=10))
        seen += [job.id for job in page]
        if cursor is None:
            break
    assert seen == ids[::-1]
    canceled, _ = store.run(verb.list_jobs(status="canceled"))
    assert [job.id for job in canceled] == [ids[3]]


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"redis_mode": "cluster"}, "cluster"),
        ({"maxmemory_policy": "allkeys-lru"}, "allkeys-lru"),
        ({"maxmemory_policy": "volatile-ttl"}, "volatile-ttl"),
    ],
)
def test_a_redis_that_could_lose_jobs_is_refused(info: dict[str, str], says: str) -> None:
    with pytest.raises(UnsuitableRedisError, match=says):
        judge(info)
    judge({"redis_mode": "standalone", "maxmemory_policy": "noeviction"})


def test_a_job_that_has_started_does_not_expire(store: Store) -> None:
    job_id = enqueue(store, start_within_seconds=5)
    taken_id(store, "a")
    store.run(verb.begin(job_id, "a", 1))
    store.run(verb.release(job_id, "a", "drained"))
    at(store, 60)
    assert reap(store).expired == 0
    assert taken_id(store, "b") == job_id


def test_a_job_given_back_before_it_began_still_expires(store: Store) -> None:
    job_id = enqueue(store, start_within_seconds=5)
    taken_id(store, "a")
    store.run(verb.release(job_id, "a", "gate_closed"))
    at(store, 6)
    assert reap(store).expired == 1
    assert look(store, job_id).status is Status.EXPIRED


def test_time_after_the_last_renewal_is_not_run_time(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    at(store, 3)
    renew(store, "a")
    at(store, 60)
    reap(store)
    assert look(store, job_id).ran_seconds == 3.0


def test_an_id_used_again_is_not_forgotten_with_the_old_job(store: Store) -> None:
    job_id = enqueue(store)
    store.run(verb.cancel(job_id))
    store.client.delete(keys.JOB + job_id)
    assert enqueue(store, job_id) == job_id
    at(store, 86_401)
    reap(store)
    assert look(store, job_id).status is Status.QUEUED


def test_a_claim_on_a_record_that_is_gone_keeps_no_worker_busy(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    store.client.delete(keys.JOB + job_id)
    assert renew(store, "a").lost == ("a",)
    assert queue(store).busy == 0


@pytest.mark.parametrize("change", [{"start_by": "soon"}, {"tokens": "12.5"}, {"tokens": "inf"}, {"sequence": "x"}])
def test_a_malformed_head_does_not_stop_the_queue(store: Store, change: dict[str, str]) -> None:
    broken, job_id = enqueue(store), enqueue(store)
    for name, value in change.items():
        store.client.hset(keys.JOB + broken, name, value)
    assert taken_id(store, "a") == job_id
    assert list(store.client.hgetall(keys.DEAD + MODEL)) == [broken]


def test_a_clock_put_back_does_not_stop_the_ticks(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    at(store, LEASE + 1)
    # As a tick looks that was made two hours ahead.
    store.client.set(keys.TICK, "other", px=7_200_000)
    store.client.set(keys.RECONCILER, "other", px=7_200_000)
    reaped = store.run(verb.reap("me", [MODEL], period_seconds=1, max_attempts=3, reap_until=ALWAYS))
    assert reaped.requeued == 1
    assert look(store, job_id).status is Status.QUEUED
    assert 0 < store.client.pttl(keys.TICK) <= 1000


def test_many_jobs_of_a_newer_version_hide_no_other(store: Store) -> None:
    newer = [enqueue(store, start_within_seconds=5, max_depth=999) for _ in range(150)]
    for claim in range(50):
        taken_id(store, f"n{claim}", worker=f"n{claim}")
    for job_id in newer:
        store.client.hset(keys.JOB + job_id, "v", "99")
    old = enqueue(store, start_within_seconds=5, max_depth=999)
    assert taken_id(store, "a") == old
    at(store, LEASE + 1)
    for _ in range(2):
        reap(store)
    assert look(store, old).status is Status.EXPIRED
    assert store.client.zcard(keys.RUNNING + MODEL) == 50
    assert store.client.zcard(keys.queue(MODEL)) == 100
