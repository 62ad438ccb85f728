"""The contract of reconcile, on fakeredis and on a real Redis: each way in which keys can disagree is mended."""

from __future__ import annotations

import pytest

from nowserving import keys, verb
from nowserving.job import Status
from nowserving.store import Store
from tests.board import LEASE, MODEL, at, enqueue, look, queue, reap, reconcile, renew, taken_id, texts

QUEUE = keys.queue(MODEL)


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    store.now = "1000"


def mends(store: Store) -> list[str]:
    """The kinds a round mends. The counts say the same, and a second round finds nothing."""
    before = store.run(verb.mended())
    kinds = [kind for kind, _ in reconcile(store)]
    counted = store.run(verb.mended())
    assert {kind: counted[kind] - before.get(kind, 0) for kind in kinds} == {kind: kinds.count(kind) for kind in kinds}
    assert reconcile(store) == []
    return kinds


def finish(store: Store, job_id: str, claim: str) -> None:
    assert store.run(verb.finish(job_id, claim, Status.SUCCEEDED, {"text": ""}))


def one_of_each(store: Store) -> dict[str, str]:
    """A job in each state that a job can be in, each with a worker of its own where it has one."""
    jobs = {"succeeded": enqueue(store), "released": enqueue(store), "suspect": enqueue(store)}
    for name, claim in zip(jobs, "abc", strict=True):
        assert taken_id(store, claim, worker=f"of {name}") == jobs[name]
        assert store.run(verb.begin(jobs[name], claim, 1))
    finish(store, jobs["succeeded"], "a")
    assert store.run(verb.release(jobs["released"], "b", "drained"))
    assert store.run(verb.release(jobs["suspect"], "c", "engine", charge="keep", max_attempts=3))
    jobs["running"] = jobs.pop("released")
    assert taken_id(store, "d", worker="of running") == jobs["running"]
    renew(store, "d", worker="of running", blocked=True)
    at(store, 2)
    reap(store)
    assert taken_id(store, "e", worker="alone") == jobs["suspect"]
    jobs["delayed"] = enqueue(store)
    assert taken_id(store, "f", worker="of delayed") == jobs["delayed"]
    assert store.run(verb.release(jobs["delayed"], "f", "engine", charge="charge", max_attempts=3))
    jobs["queued"], jobs["batch"] = enqueue(store, start_within_seconds=60), enqueue(store, lane="batch")
    jobs["canceled"] = enqueue(store)
    store.run(verb.cancel(jobs["canceled"]))
    jobs["expired"] = enqueue(store, start_within_seconds=1)
    at(store, 4)
    reap(store)
    assert look(store, jobs["expired"]).status is Status.EXPIRED
    return jobs


def test_a_healthy_system_gives_it_nothing_to_do(store: Store) -> None:
    jobs = one_of_each(store)
    renew(store, "d", worker="of running", draining=True)
    for limit in (1, 3, 200):
        assert reconcile(store, limit) == []
    store.client.delete(keys.JOB + jobs["succeeded"])  # as its TTL does, before reap forgets the job
    assert reconcile(store) == []
    at(store, LEASE + 90_000)
    assert reconcile(store) == []
    assert store.run(verb.mended()) == {}


def test_a_queued_job_that_stands_nowhere_gets_its_place_back(store: Store) -> None:
    first, second = enqueue(store), enqueue(store)
    store.client.zrem(QUEUE, first)
    woken = store.client.xlen(keys.wake(MODEL)), store.client.xinfo_stream(keys.wake(MODEL))["last-generated-id"]
    assert mends(store) == ["queued_nowhere"]
    assert store.client.xinfo_stream(keys.wake(MODEL))["last-generated-id"] != woken[1]
    assert [taken_id(store, "a"), taken_id(store, "b")] == [first, second]


def test_a_job_queued_twice_is_queued_once(store: Store) -> None:
    job_id, batch = enqueue(store), enqueue(store, lane="batch")
    store.client.zadd(keys.DELAYED + MODEL, {job_id: 1500})
    store.client.zadd(QUEUE, {batch: 1})
    assert sorted(mends(store)) == ["not_queued", "queued_twice"]
    stands = queue(store)
    assert (stands.normal, stands.batch, stands.delayed) == (1, 1, 0)


def test_a_job_at_another_place_of_the_line_goes_to_its_own(store: Store) -> None:
    first, second = enqueue(store), enqueue(store)
    store.client.zadd(QUEUE, {first: 99})
    assert mends(store) == ["queued_out_of_order"]
    assert [taken_id(store, "a"), taken_id(store, "b")] == [first, second]


def test_a_queued_job_under_a_lease_is_out_of_it(store: Store) -> None:
    job_id = enqueue(store)
    store.client.zadd(keys.RUNNING + MODEL, {job_id: 5000})
    store.client.hset(keys.HELD + "w", "c", job_id)
    store.client.hset(keys.BUSY + MODEL, "w", 1)
    assert sorted(mends(store)) == ["busy", "not_held", "not_running"]
    stands = queue(store)
    assert (stands.depth, stands.running, stands.busy) == (1, 0, 0)


def test_an_old_claim_on_a_queued_job_is_ended(store: Store) -> None:
    job_id = enqueue(store)
    store.client.hset(keys.JOB + job_id, mapping={"claim": "old", "worker": "w"})
    assert mends(store) == ["claimed"]
    assert not store.run(verb.append(job_id, "old", 0, [1], "late"))
    assert taken_id(store, "new") == job_id


@pytest.mark.parametrize("lost", ["lease", "held", "claim", "worker"])
def test_a_running_job_under_no_lease_is_queued_again_uncharged(store: Store, lost: str) -> None:
    job_id, other = enqueue(store), enqueue(store)
    assert taken_id(store, "c") == job_id
    store.run(verb.begin(job_id, "c", 1))
    if lost == "lease":
        store.client.zrem(keys.RUNNING + MODEL, job_id)
    elif lost == "held":
        store.client.hdel(keys.HELD + "w", "c")
    else:
        store.client.hdel(keys.JOB + job_id, lost)
    kinds = mends(store)
    assert kinds[0] == "running_unleased"
    # Without the record's word nobody knew whose it was.
    assert set(kinds[1:]) <= ({"not_held", "busy"} if lost in ("claim", "worker") else {"busy"})
    job, stands = look(store, job_id), queue(store)
    assert (job.status, job.attempt) == (Status.QUEUED, 0)
    assert (stands.depth, stands.running, stands.busy) == (2, 0, 0)
    assert not store.run(verb.append(job_id, "c", 0, [1], "late"))
    assert renew(store, "c").lost == ("c",)
    assert texts(store, job_id)[-1] == ("queued", None)
    assert [taken_id(store, "d"), taken_id(store, "e")] == [job_id, other]


def test_a_running_job_in_a_queue_is_taken_out(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "c")
    for key in (QUEUE, QUEUE + keys.BATCH, keys.DELAYED + MODEL, keys.STARTING + MODEL):
        store.client.zadd(key, {job_id: 1})
    assert sorted(mends(store)) == ["not_delayed", "not_queued", "not_queued", "not_starting"]
    assert (queue(store).depth, queue(store).running) == (0, 1)
    finish(store, job_id, "c")


def test_an_ended_job_stands_nowhere(store: Store) -> None:
    job_id = enqueue(store)
    store.run(verb.cancel(job_id))
    for key in (QUEUE, keys.DELAYED + MODEL, keys.STARTING + MODEL, keys.RUNNING + MODEL):
        store.client.zadd(key, {job_id: 1})
    store.client.hset(keys.HELD + "w", "c", job_id)
    store.client.hset(keys.BUSY + MODEL, "w", 1)
    kinds = ["busy", "not_delayed", "not_held", "not_queued", "not_running", "not_starting"]
    assert sorted(mends(store)) == kinds
    assert (queue(store).depth, queue(store).running, queue(store).busy) == (0, 0, 0)
    assert texts(store, job_id) == [("canceled", None)]


@pytest.mark.parametrize("lost", ["ttl", "finished"])
def test_an_ended_job_is_forgotten_in_time(store: Store, lost: str) -> None:
    job_id = enqueue(store)
    store.run(verb.cancel(job_id))
    if lost == "ttl":
        store.client.persist(keys.JOB + job_id)
    else:
        store.client.zrem(keys.FINISHED, job_id)
    assert mends(store) == ["ended_kept"]
    assert store.client.ttl(keys.JOB + job_id) > 80_000
    at(store, 90_000)
    assert reap(store).forgotten == 1


def test_a_job_that_has_not_ended_is_never_forgotten(store: Store) -> None:
    queued, running = enqueue(store), enqueue(store)
    store.client.zadd(keys.FINISHED, {queued: 5000, running: 5000})
    assert mends(store) == ["not_ended", "not_ended"]
    store.client.zadd(keys.FINISHED, {queued: 1, running: 1})
    reap(store)
    assert mends(store) == []
    assert [taken_id(store, "a"), taken_id(store, "b")] == [queued, running]


def test_a_job_that_is_in_no_list_is_found_by_its_place(store: Store) -> None:
    job_id = enqueue(store)
    store.client.zrem(keys.JOBS, job_id)
    assert mends(store) == ["unlisted"]
    assert [job.id for job in store.run(verb.list_jobs())[0]] == [job_id]


def test_a_job_that_must_start_in_time_still_expires(store: Store) -> None:
    job_id = enqueue(store, start_within_seconds=5)
    store.client.zrem(keys.STARTING + MODEL, job_id)
    assert mends(store) == ["never_expiring"]
    at(store, 6)
    assert reap(store).expired == 1


def test_what_a_worker_holds_is_counted_right(store: Store) -> None:
    for _ in range(2):
        enqueue(store)
    taken_id(store, "a")
    taken_id(store, "b")
    store.client.hset(keys.BUSY + MODEL, mapping={"w": 7, "stranger": 1})
    assert mends(store) == ["busy", "busy"]
    assert store.client.hgetall(keys.BUSY + MODEL) == {"w": "2"}


def test_a_worker_is_not_kept_free_for_a_job_that_it_does_not_run(store: Store) -> None:
    job_id = enqueue(store)
    store.client.hset(keys.ALONE + MODEL, "w", job_id)
    assert mends(store) == ["not_alone"]
    assert taken_id(store, "c") == job_id


def test_no_deadline_lies_so_far_ahead_that_it_never_comes(store: Store) -> None:
    running, delayed = enqueue(store), enqueue(store)
    taken_id(store, "c")
    renew(store, "c", blocked=True)
    store.client.zrem(QUEUE, delayed)
    far = 1000 + 10 * 86400
    store.client.zadd(keys.RUNNING + MODEL, {running: far})
    store.client.zadd(keys.DELAYED + MODEL, {delayed: far})
    store.client.zadd(keys.ALIVE + MODEL, {"dead": far, "x": "inf"})
    store.client.zadd(keys.BLOCKED + MODEL, {"dead": "inf"})
    assert sorted(mends(store)) == ["delayed_for_ever", "leased_for_ever", *["worker_for_ever"] * 3]
    at(store, 700)
    reap(store)
    assert {taken_id(store, "d", worker="d"), taken_id(store, "e", worker="e")} == {running, delayed}


def test_the_next_number_of_the_line_is_never_a_used_one(store: Store) -> None:
    ids = [enqueue(store) for _ in range(3)]
    store.client.set(keys.SEQUENCE, 1)
    assert set(mends(store)) == {"sequence"}
    assert enqueue(store) not in ids
    assert look(store, taken_id(store, "a") or "").sequence == 1
    assert store.client.get(keys.SEQUENCE) == "4"


def test_a_tick_that_would_last_for_ever_is_ended(store: Store) -> None:
    store.client.set(keys.TICK, "a process that nobody knows")
    assert mends(store) == ["tick_for_ever"]


@pytest.mark.parametrize("place", ["queue", "batch", "delayed", "running", "starting"])
def test_members_that_are_no_jobs_do_not_count_as_depth(store: Store, place: str) -> None:
    before, after = enqueue(store), enqueue(store)
    key = {"queue": QUEUE, "batch": QUEUE + keys.BATCH}.get(place, f"{keys.PREFIX}{place}:{MODEL}")
    strangers = [f"stranger {i}" for i in range(300)]
    store.client.zadd(key, dict.fromkeys(strangers, 1.5))
    assert mends(store) == ["set_aside"] * 300
    stands = queue(store)
    assert (stands.depth, stands.running, stands.dead) == (2, 0, 300)
    assert store.client.hget(keys.DEAD + MODEL, "stranger 7") == "it has no record"
    assert [taken_id(store, "a"), taken_id(store, "b")] == [before, after]


def test_a_listed_job_whose_record_is_gone_is_listed_no_more(store: Store) -> None:
    job_id = enqueue(store)
    store.client.delete(keys.JOB + job_id)
    assert sorted(mends(store)) == ["gone", "set_aside"]
    assert store.client.zcard(keys.JOBS) == 0
    assert queue(store).depth == 0


def test_an_unreadable_record_is_told_once_and_comes_back_when_it_is_mended(store: Store) -> None:
    broken, job_id = enqueue(store), enqueue(store)
    store.client.hset(keys.JOB + broken, "tokens", "many")
    assert sorted(mends(store)) == ["set_aside", "unreadable"]
    assert store.client.hgetall(keys.DEAD + MODEL) == {broken: "its record has no readable tokens"}
    store.client.hset(keys.JOB + broken, "tokens", "20")
    assert mends(store) == ["queued_nowhere"]
    assert [taken_id(store, "a"), taken_id(store, "b")] == [broken, job_id]


def test_jobs_of_a_newer_version_are_left_alone(store: Store) -> None:
    jobs = one_of_each(store)
    for job_id in jobs.values():
        store.client.hset(keys.JOB + job_id, mapping={"v": 99, "tokens": "a vector", "status": "dreaming"})
    store.client.zrem(QUEUE, jobs["queued"])
    before = {key: store.client.dump(key) for key in store.client.scan_iter(f"{keys.PREFIX}*")}
    assert reconcile(store) == []
    assert {key: store.client.dump(key) for key in store.client.scan_iter(f"{keys.PREFIX}*")} == before
