"""The contract of the scripts, on fakeredis and on a real Redis: what one job goes through."""

from __future__ import annotations

from typing import Any

import pytest

from nowserving import keys, letter, verb
from nowserving.answer import Taken, Unfit
from nowserving.delivery import Attempt
from nowserving.errors import (
    IdempotencyConflictError,
    JobFinishedError,
    JobNotFoundError,
    QueueFullError,
)
from nowserving.job import Status, new_job_id
from nowserving.script import UNDER_A_CLAIM
from nowserving.store import Store
from tests.board import LEASE, MODEL, at, enqueue, look, queue, reap, renew, take, taken_id, texts


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    store.now = "1000"


def test_a_job_goes_from_queue_to_result(store: Store) -> None:
    job_id = enqueue(store)
    assert look(store, job_id).status is Status.QUEUED
    assert taken_id(store, "c") == job_id
    assert look(store, job_id).status is Status.RUNNING
    assert store.run(verb.begin(job_id, "c", 3))
    assert store.run(verb.append(job_id, "c", 0, [5, 6], "ab"))
    at(store, 2)
    assert store.run(verb.finish(job_id, "c", Status.SUCCEEDED, {"text": "abc"}, index=2, ids=[7], text="c"))
    job = look(store, job_id)
    assert (job.status, job.output, job.generated, job.ran_seconds) == (
        Status.SUCCEEDED,
        {"text": "abc"},
        3,
        2.0,
    )
    assert texts(store, job_id) == [("started", None), ("token", 0), ("token", 2), ("succeeded", None)]
    stands = queue(store)
    assert (stands.depth, stands.running, stands.busy) == (0, 0, 0)


def test_jobs_are_taken_in_order_and_batch_last(store: Store) -> None:
    late = enqueue(store, lane="batch")
    ids = [enqueue(store) for _ in range(3)]
    assert [taken_id(store, f"c{i}") for i in range(5)] == [*ids, late, None]
    assert queue(store).running == 4


def test_the_same_id_is_enqueued_once(store: Store) -> None:
    job_id = enqueue(store)
    assert enqueue(store, job_id) == job_id
    assert queue(store).depth == 1
    assert taken_id(store, "c") == job_id
    assert enqueue(store, job_id) == job_id
    assert (queue(store).depth, look(store, job_id).status) == (0, Status.RUNNING)


def test_an_idempotency_key_names_one_job(store: Store) -> None:
    first = enqueue(store, idempotency_key="k", fingerprint="f")
    assert enqueue(store, idempotency_key="k", fingerprint="f") == first
    assert queue(store).depth == 1
    with pytest.raises(IdempotencyConflictError, match=first):
        enqueue(store, idempotency_key="k", fingerprint="other")


def test_a_full_queue_refuses(store: Store) -> None:
    enqueue(store, max_depth=1)
    with pytest.raises(QueueFullError, match="1 jobs wait for m, and 1 may"):
        enqueue(store, max_depth=1)


def test_a_resent_take_gets_the_same_job(store: Store) -> None:
    first, second = enqueue(store), enqueue(store)
    assert taken_id(store, "c") == first
    assert taken_id(store, "c") == first
    assert taken_id(store, "d") == second


def take_many(store: Store, worker: str, *claims: str) -> list[str]:
    call = verb.take(MODEL, worker, claims, lease_seconds=LEASE, headroom=1000, capacity=1000, max_takes=50)
    answer = store.run(call)
    assert isinstance(answer, tuple)
    return [taken.job_id for taken in answer]


def test_several_claims_take_several_jobs_and_each_its_own_again(store: Store) -> None:
    ids = [enqueue(store) for _ in range(3)]
    assert take_many(store, "w", "a", "b") == ids[:2]
    assert take_many(store, "w", "a", "b", "c", "d") == ids
    assert (queue(store).running, queue(store).busy) == (3, 1)


def test_a_worker_takes_no_more_than_its_share(store: Store) -> None:
    ids = [enqueue(store) for _ in range(5)]
    renew(store, worker="one")
    renew(store, worker="two")
    assert take_many(store, "one", "a", "b", "c", "d", "e") == ids[:3]
    assert take_many(store, "two", "f", "g", "h") == ids[3:4]


def test_a_head_that_does_not_fit_stays(store: Store) -> None:
    job_id = enqueue(store)
    answer = take(store, "c", headroom=100)
    assert isinstance(answer, Unfit)
    assert answer.job_id == job_id
    assert queue(store).depth == 1
    assert isinstance(take(store, "c", headroom=answer.tokens), Taken)


def test_an_empty_worker_takes_a_job_larger_than_its_capacity(store: Store) -> None:
    enqueue(store)
    assert isinstance(take(store, "c", headroom=100, capacity=100), Taken)


@pytest.mark.parametrize("write", UNDER_A_CLAIM)
def test_a_claim_that_is_not_the_jobs_writes_nothing(store: Store, write: str) -> None:
    job_id = enqueue(store)
    taken_id(store, "old", worker="stalled")
    at(store, LEASE + 1)
    reap(store)
    assert taken_id(store, "new") == job_id
    assert store.run(verb.begin(job_id, "new", 1))
    calls = {
        "begin": verb.begin(job_id, "old", 1),
        "progress": verb.progress(job_id, "old", 1, 2),
        "append": verb.append(job_id, "old", 0, [1], "x"),
        "finish": verb.finish(job_id, "old", Status.SUCCEEDED, {"text": "x"}),
        "release": verb.release(job_id, "old", "test"),
        "settle": letter.settle(job_id, "old", "delivered", Attempt(0, 200, 0)),
    }
    before = store.client.hgetall(keys.JOB + job_id), texts(store, job_id)
    assert store.run(calls[write]) is False
    assert (store.client.hgetall(keys.JOB + job_id), texts(store, job_id)) == before


def test_resent_writes_are_harmless(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "c")
    for _ in range(2):
        assert store.run(verb.begin(job_id, "c", 1))
    assert look(store, job_id).attempt == 1
    for _ in range(2):
        assert store.run(verb.append(job_id, "c", 0, [1, 2], "ab"))
    for _ in range(2):
        assert store.run(verb.finish(job_id, "c", Status.SUCCEEDED, {"text": "abc"}, index=2, ids=[3], text="c"))
    assert texts(store, job_id) == [("started", None), ("token", 0), ("token", 2), ("succeeded", None)]


def test_progress_grows_and_comes_before_the_first_new_token(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    assert store.run(verb.progress(job_id, "a", 5, 90)) is True
    assert texts(store, job_id) == []
    store.run(verb.begin(job_id, "a", 90))
    for done in (30, 60, 60, 30):
        assert store.run(verb.progress(job_id, "a", done, 90)) is True
    told = store.run(verb.read_events({job_id: "0"}))[job_id][1:]
    assert [event.data for event in told] == [{"stage": "prefill", "done": done, "total": 90} for done in (30, 60)]
    store.run(verb.append(job_id, "a", 0, [1], "a"))
    assert store.run(verb.progress(job_id, "a", 70, 90)) is True
    store.run(verb.release(job_id, "a", "drained"))
    taken_id(store, "b")
    store.run(verb.begin(job_id, "b", 90, anew=True))
    store.run(verb.progress(job_id, "b", 20, 90))
    kinds = [kind for kind, _ in texts(store, job_id)]
    assert kinds[3:] == ["token", "queued", "started", "restarted", "progress"]


def test_tokens_that_would_leave_a_gap_are_refused(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "c")
    assert store.run(verb.append(job_id, "c", 1, [2], "b")) is False
    assert texts(store, job_id) == []


def test_an_attempt_is_charged_at_the_start_and_refunded_at_the_first_token(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "c")
    store.run(verb.begin(job_id, "c", 1))
    assert look(store, job_id).attempt == 1
    store.run(verb.append(job_id, "c", 0, [1], "a"))
    assert look(store, job_id).attempt == 0


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "begun with its end"])
def test_a_job_that_is_stopped_keeps_beside_its_error_what_its_readers_have_seen(store: Store, begun: bool) -> None:
    job_id = enqueue(store)
    taken_id(store, "c")
    error = {"code": "timeout", "message": "too long", "retryable": False}
    last: dict[str, Any] = {"index": 0, "ids": [5, 6, 7], "text": "abc", "begun": 4}
    if begun:
        store.run(verb.begin(job_id, "c", 4))
        store.run(verb.append(job_id, "c", 0, [5, 6], "ab"))
        last = {"index": 2, "ids": [7], "text": "c"}
    for _ in range(2):
        assert store.run(verb.finish(job_id, "c", Status.FAILED, error, kept="timeout", **last))
    usage = {"prompt_tokens": 4, "completion_tokens": 3}
    output = {"text": "abc", "finish_reason": "timeout", "usage": usage}
    job = look(store, job_id)
    assert (job.status, job.error, job.output) == (Status.FAILED, error, output)
    events = store.run(verb.read_events({job_id: "0"}))[job_id]
    assert [event.data for event in events if event.terminal] == [{"error": error, "output": output}]


def test_a_job_that_fails_otherwise_has_no_output(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "c")
    store.run(verb.append(job_id, "c", 0, [5], "a"))
    assert store.run(verb.finish(job_id, "c", Status.FAILED, {"code": "engine_error"}))
    assert look(store, job_id).output is None


def test_cancel_ends_a_job_wherever_it_is(store: Store) -> None:
    queued, running, ended = enqueue(store), "", ""
    ended = taken_id(store, "x") or ""
    assert ended == queued
    store.run(verb.finish(ended, "x", Status.SUCCEEDED, {"text": ""}))
    running = enqueue(store)
    taken_id(store, "a")
    store.run(verb.append(running, "a", 0, [1], "half"))
    queued = enqueue(store)
    for job_id in (queued, running, queued, running):
        store.run(verb.cancel(job_id))
    assert look(store, queued).status is Status.CANCELED
    output = look(store, running).output
    assert output is not None
    assert (output["text"], output["finish_reason"], output["usage"]["completion_tokens"]) == ("half", "canceled", 1)
    stands = queue(store)
    assert (stands.depth, stands.running, stands.busy) == (0, 0, 0)
    assert renew(store, "a").lost == ("a",)
    assert store.run(verb.finish(running, "a", Status.SUCCEEDED, {"text": "late"})) is False
    assert [kind for kind, _ in texts(store, running)].count("canceled") == 1
    with pytest.raises(JobFinishedError, match="succeeded"):
        store.run(verb.cancel(ended))
    with pytest.raises(JobNotFoundError):
        store.run(verb.cancel(new_job_id()))


def test_positions_are_those_that_look_tells_of_each_waiting_job(store: Store) -> None:
    running, *waiting = (enqueue(store) for _ in range(4))
    batch = [enqueue(store, lane="batch") for _ in range(2)]
    taken_id(store, "c")
    delayed = waiting.pop(0)
    taken_id(store, "d")
    store.run(verb.begin(delayed, "d", 1))
    store.run(verb.release(delayed, "d", "test", charge="keep", max_attempts=3))
    ids = [*batch, running, delayed, "job_unknown", *waiting]
    standings = store.run(verb.positions(ids))
    assert set(standings) == {*batch, *waiting, delayed}
    assert [standings[job_id].position for job_id in (*waiting, *batch)] == [0, 1, 2, 3]
    assert standings[delayed].delayed_until is not None
    for job_id, standing in standings.items():
        wait = store.run(verb.look(job_id)).wait
        assert wait is not None
        assert (wait.position, wait.delayed_until) == (standing.position, standing.delayed_until)
    assert store.run(verb.positions([])) == {}


@pytest.mark.parametrize("forgotten", [False, True])
def test_calls_travel_together_each_with_an_answer_of_its_own(store: Store, forgotten: bool) -> None:
    ids = [enqueue(store) for _ in range(3)]
    for index in range(3):
        taken_id(store, f"c{index}")
    if forgotten:
        store.client.script_flush()
    calls = [verb.append(job_id, f"c{index}", 0, [1, 2], "ab") for index, job_id in enumerate(ids)]
    stranger = verb.append(ids[0], "stranger", 2, [3], "c")
    assert store.run_all([*calls, stranger, calls[0]]) == [True, True, True, False, True]
    assert [texts(store, job_id) for job_id in ids] == [[("token", 0)]] * 3
    store.run(verb.finish(ids[0], "c0", Status.SUCCEEDED, {"text": "ab"}, index=2))
    cancels = [verb.cancel(job_id) for job_id in (ids[0], ids[1], new_job_id())]
    assert [type(answer) for answer in store.run_all(cancels)] == [JobFinishedError, type(None), JobNotFoundError]
    assert store.run_all([]) == []
