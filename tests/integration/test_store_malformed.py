"""The contract of the scripts, on fakeredis and on a real Redis: records and events that are no job's stop no verb."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from nowserving import keys, verb
from nowserving.errors import JobFinishedError, JobNotFoundError, RecordError
from nowserving.job import VERSION, Job, Status, new_job_id
from nowserving.store import Store
from tests.board import LEASE, MODEL, at, enqueue, goes_on, look, queue, reap, reconcile, renew, taken_id, texts

QUEUE = keys.queue(MODEL)
PICKLE = pickle.dumps({"task": "nowserving.generate", "id": 7, "\xff": b"\x00\xfe"}, protocol=4)


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    store.now = "1000"


MALFORMED = [
    *(
        {name: value}
        for name in ("sequence", "tokens", "retain_seconds", "v")
        for value in ("", "x", "nan", "inf", "1e99")
    ),
    *({name: "-1"} for name in ("sequence", "tokens", "retain_seconds")),
    *({"tokens": value} for value in ("0x10", "12.5", " 7")),
    *({"start_by": value} for value in ("soon", "inf")),
    *({"status": value} for value in ("", "dreaming")),
    {"sequence": "1.5"},
    {"id": "another"},
]


@pytest.mark.parametrize("change", MALFORMED, ids=str)
def test_a_malformed_record_is_set_aside_with_its_reason_wherever_it_is_met(
    store: Store, change: dict[str, str]
) -> None:
    in_queue, delayed, running = (enqueue(store) for _ in range(3))
    store.client.zrem(QUEUE, delayed, running)
    store.client.zadd(keys.DELAYED + MODEL, {delayed: 1})
    store.client.zadd(keys.RUNNING + MODEL, {running: 1})
    for job_id in (in_queue, delayed, running):
        store.client.hset(keys.JOB + job_id, mapping=change)  # type: ignore[arg-type]
    reap(store)
    assert taken_id(store, "c") is None
    assert set(store.client.hgetall(keys.DEAD + MODEL)) == {in_queue, delayed, running}
    assert (queue(store).depth, queue(store).running) == (0, 0)
    with pytest.raises(RecordError, match="record"):
        store.run(verb.cancel(in_queue))
    assert not store.run(verb.begin(in_queue, "c", 1))
    assert not store.run(verb.release(in_queue, "c", "test"))
    reconcile(store)
    assert reconcile(store) == []
    goes_on(store)


@pytest.mark.parametrize(
    "field",
    [
        "attempt",
        "takes",
        "generated",
        "ran_seconds",
        "taken_at",
        "prompt_tokens",
        "lease",
        "charged",
        "begun",
        "suspect",
    ],
)
@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-1e99"])
def test_a_malformed_count_stops_no_job(store: Store, field: str, value: str) -> None:
    for end in ("finish", "cancel", "lapse"):
        job_id = enqueue(store)
        claim = f"{end} {job_id}"
        assert taken_id(store, claim, worker=end) == job_id
        store.client.hset(keys.JOB + job_id, field, value)
        if end == "finish":
            assert store.run(verb.finish(job_id, claim, Status.SUCCEEDED, {"text": ""}))
        elif end == "cancel":
            store.run(verb.cancel(job_id))
        else:
            store.now = repr(float(store.now) + LEASE + 1)
            assert reap(store).requeued == 1
    assert reconcile(store) == []


def test_a_running_record_without_claim_or_worker_can_be_canceled_and_reaped(store: Store) -> None:
    ids = [enqueue(store) for _ in range(4)]
    for job_id, claim in zip(ids, "abcd", strict=True):
        assert taken_id(store, claim) == job_id
    for job_id, name in zip(ids, ["claim", "worker"] * 2, strict=True):
        store.client.hdel(keys.JOB + job_id, name)
    store.run(verb.cancel(ids[0]))
    store.run(verb.cancel(ids[1]))
    at(store, LEASE + 1)
    assert reap(store).requeued == 2
    assert {taken_id(store, "e", worker="e"), taken_id(store, "f", worker="f")} <= {ids[2], ids[3], None}


def test_an_ended_job_in_running_or_delayed_is_not_run_again(store: Store) -> None:
    job_id = enqueue(store)
    store.run(verb.cancel(job_id))
    store.client.zadd(keys.RUNNING + MODEL, {job_id: 1})
    store.client.zadd(keys.DELAYED + MODEL, {job_id: 1})
    assert reap(store).requeued == 0
    assert (queue(store).depth, queue(store).running) == (0, 0)
    assert look(store, job_id).status is Status.CANCELED


def test_a_newer_record_waits_though_nothing_else_in_it_can_be_read(store: Store) -> None:
    newer, delayed, running, job_id = (enqueue(store, start_within_seconds=5) for _ in range(4))
    store.client.zrem(QUEUE, delayed, running)
    store.client.zadd(keys.DELAYED + MODEL, {delayed: 1})
    store.client.zadd(keys.RUNNING + MODEL, {running: 1})
    for each in (newer, delayed, running):
        store.client.hset(keys.JOB + each, mapping={"v": VERSION + 1, "sequence": "a vector", "status": "dreaming"})
    assert taken_id(store, "a") == job_id
    at(store, 6)
    reaped = reap(store)
    assert (reaped.requeued, reaped.expired) == (0, 0)
    assert taken_id(store, "b") is None
    stands = queue(store)
    assert (stands.normal, stands.delayed, stands.running, stands.dead) == (1, 1, 2, 0)
    with pytest.raises(RecordError, match="newer"):
        store.run(verb.cancel(newer))


@pytest.mark.parametrize("said", ["", "{", "[]", "7", '"x"', '{"gate": 5}', '{"slots": "many"}', "[" * 5000])
def test_a_worker_that_talks_nonsense_hides_nothing_of_the_others(store: Store, said: str) -> None:
    job_id = enqueue(store)
    renew(store, worker="good")
    renew(store, worker="strange")
    store.client.hset(keys.WORKERS + MODEL, "strange", said)
    wait = store.run(verb.look(job_id)).wait
    assert wait is not None
    assert sorted(wait.workers, key=str) == [{"slots": 1}, {}]
    assert sorted(worker["name"] for worker in store.run(verb.workers([MODEL]))) == ["good", "strange"]


def test_events_that_are_none_of_ours_are_passed_over(store: Store) -> None:
    job_id, other = enqueue(store), enqueue(store)
    for entry in (
        {"a": "b"},
        {"type": "token", "at": "late"},
        {"type": "token", "at": "1", "ids": "x"},
        {b"\xff": b"\xfe"},
    ):
        store.client.xadd(keys.events(job_id), entry)  # type: ignore[arg-type]
    store.run(verb.cancel(job_id))
    store.run(verb.cancel(other))
    read = store.run(verb.read_events({job_id: "0", other: "0"}))
    assert [event.type for event in read[job_id]] == [*["unreadable"] * 4, "canceled"]
    assert [event.type for event in read[other]] == ["canceled"]


def test_an_event_stream_of_another_type_does_not_keep_a_job_from_its_end(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "c")
    store.client.set(keys.events(job_id), PICKLE)
    assert texts(store, job_id) == []
    assert store.run(verb.finish(job_id, "c", Status.SUCCEEDED, {"text": "a"}, ids=[1], text="a"))
    assert texts(store, job_id)[-1] == ("succeeded", None)


def test_a_record_of_another_type_is_no_job_and_stops_nobody(store: Store) -> None:
    ids = [enqueue(store) for _ in range(3)]
    store.client.delete(keys.JOB + ids[0])
    store.client.lpush(keys.JOB + ids[0], PICKLE)
    with pytest.raises(RecordError):
        look(store, ids[0])
    with pytest.raises(RecordError):
        store.run(verb.cancel(ids[0]))
    assert [job.id for job in store.run(verb.list_jobs())[0]] == ids[:0:-1]
    assert queue(store).normal == 3
    assert taken_id(store, "a") == ids[1]
    # The id is used again: what stood there was nobody's job.
    assert enqueue(store, ids[0]) == ids[0]
    assert look(store, ids[0]).status is Status.QUEUED


def test_half_a_record_does_not_stand_in_the_way_of_a_job(store: Store) -> None:
    job_id = new_job_id()
    store.client.hset(keys.JOB + job_id, mapping={"start_by": "soon", "status": "succeeded", "claim": "old"})
    assert enqueue(store, job_id) == job_id
    assert taken_id(store, "c") == job_id


@pytest.mark.parametrize("seen", ["", "nonsense", b"\xff\xfe"])
def test_an_idempotency_key_that_says_nothing_is_made_anew(store: Store, seen: str | bytes) -> None:
    store.client.set(keys.IDEMPOTENCY + "k", seen)
    job_id = enqueue(store, idempotency_key="k", fingerprint="f")
    assert enqueue(store, idempotency_key="k", fingerprint="f") == job_id


@pytest.mark.parametrize("lost", [None, "-7", "x", "9223372036854775807", "9007199254740993"])
def test_a_lost_counter_goes_on_after_the_last_job(store: Store, lost: str | None) -> None:
    ids = [enqueue(store) for _ in range(3)]
    if lost is None:
        store.client.delete(keys.SEQUENCE)
    else:
        store.client.set(keys.SEQUENCE, lost)
    ids += [enqueue(store), enqueue(store)]
    assert [taken_id(store, f"c{i}", worker=f"w{i}") for i in range(5)] == ids


@pytest.mark.parametrize("job_id", ["job \n", "jöb", "../../etc", "*", "job_" + "x" * 100_000])
def test_a_job_of_a_strange_name_is_run_or_set_aside(store: Store, job_id: str) -> None:
    store.client.rename(keys.JOB + enqueue(store), keys.JOB + job_id)
    store.client.hset(keys.JOB + job_id, "id", job_id)
    store.client.zadd(QUEUE, {job_id: 0})
    taken_id(store, "c")
    reconcile(store)
    goes_on(store)
    assert reconcile(store) == []


def test_an_ended_job_says_so_also_when_it_is_canceled_late(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "c")
    store.run(verb.finish(job_id, "c", Status.SUCCEEDED, {"text": ""}))
    with pytest.raises(JobFinishedError):
        store.run(verb.cancel(job_id))
    with pytest.raises(JobNotFoundError):
        store.run(verb.cancel(new_job_id()))


@pytest.mark.parametrize(
    "change",
    [
        {"created_at": "1e300"},
        {"created_at": "nan"},
        {"finished_at": "-inf"},
        {"metadata": "[]"},
        {"output": "7"},
        {"input": "["},
        {"lane": "fast"},
    ],
)
def test_a_record_that_could_not_be_shown_is_refused_when_it_is_read(change: dict[str, str], store: Store) -> None:
    fields: dict[str, Any] = {str(k): v for k, v in store.client.hgetall(keys.JOB + enqueue(store)).items()}
    Job.from_fields(fields)
    with pytest.raises(RecordError):
        Job.from_fields({**fields, **change})
