"""The contract of the scripts, on fakeredis and on a real Redis: attempts, and who may have killed a worker."""

from __future__ import annotations

import pytest

from nowserving import keys, verb
from nowserving.answer import Suspect
from nowserving.job import Status
from nowserving.store import Store
from nowserving.vigil import Vigil
from tests.board import LEASE, MODEL, at, enqueue, look, queue, reap, renew, take, taken_id, texts

FAILURE = {"code": "engine_error", "message": "it broke", "retryable": True}
LONGEST_FIRST_WAIT = 1.0


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    store.now = "1000"


def begin(store: Store, job_id: str, claim: str) -> None:
    assert store.run(verb.begin(job_id, claim, 1))


def lose_worker(store: Store, job_id: str, claim: str, seconds: float) -> float:
    """Its worker takes and begins it, and is not heard of again; the time when it has been reaped."""
    at(store, seconds)
    assert taken_id(store, claim, worker=f"of {claim}") == job_id
    begin(store, job_id, claim)
    at(store, seconds + LEASE + 0.1)
    reap(store)
    return seconds + LEASE + 0.1


def test_a_job_that_kills_its_worker_too_often_is_failed(store: Store) -> None:
    job_id, seconds = enqueue(store), 0.0
    for claim in "abc":
        seconds = lose_worker(store, job_id, claim, seconds) + 4
        at(store, seconds)
        reap(store)
    job = look(store, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == (Status.FAILED, "worker_lost", 3)
    assert texts(store, job_id)[-1] == ("failed", None)


def test_a_suspect_waits_longer_each_time_before_it_gets_its_old_place(store: Store) -> None:
    suspect, other = enqueue(store), enqueue(store)
    gone = lose_worker(store, suspect, "a", 0)
    first = float(store.client.zscore(keys.DELAYED + MODEL, suspect) or 0) - 1000 - gone
    assert 0.5 <= first <= LONGEST_FIRST_WAIT
    assert (queue(store).delayed, queue(store).depth) == (1, 2)
    assert look(store, suspect).status is Status.QUEUED
    at(store, gone + first)
    reap(store)
    gone = lose_worker(store, suspect, "b", gone + first)
    assert 1.0 <= float(store.client.zscore(keys.DELAYED + MODEL, suspect) or 0) - 1000 - gone <= 2.0
    assert taken_id(store, "c") == other


def test_a_suspect_gets_a_worker_for_itself_till_its_first_new_token(store: Store) -> None:
    suspect, other, third = (enqueue(store) for _ in range(3))
    seconds = lose_worker(store, suspect, "a", 0) + LONGEST_FIRST_WAIT
    assert taken_id(store, "b", worker="busy") == other
    at(store, seconds)
    reap(store)
    assert take(store, "c", worker="busy") == Suspect(suspect)
    assert taken_id(store, "d", worker="free") == suspect
    assert take(store, "e", worker="free") == Suspect(suspect)
    assert taken_id(store, "f", worker="busy") == third
    fourth = enqueue(store)
    begin(store, suspect, "d")
    assert take(store, "g", worker="free") == Suspect(suspect)
    assert look(store, suspect).attempt == 2
    assert store.run(verb.append(suspect, "d", 0, [1], "a"))
    assert look(store, suspect).attempt == 0
    assert taken_id(store, "h", worker="free") == fourth
    assert store.client.hlen(keys.ALONE + MODEL) == 0


def test_a_silent_worker_is_kept_free_for_its_suspect_till_that_ones_lease_has_ended(store: Store) -> None:
    suspect, other = enqueue(store), enqueue(store)
    seconds = lose_worker(store, suspect, "a", 0) + LONGEST_FIRST_WAIT
    at(store, seconds)
    renew(store)
    at(store, seconds + LEASE / 2)
    reap(store)
    assert taken_id(store, "b") == suspect
    at(store, seconds + LEASE + 0.1)
    reap(store)
    assert take(store, "c") == Suspect(suspect)
    at(store, seconds + 2 * LEASE)
    reap(store)
    assert store.client.hlen(keys.ALONE + MODEL) == 0
    assert taken_id(store, "d") == other


@pytest.mark.parametrize("end", ["cancel", "lapse", "leave", "finish"])
def test_a_worker_is_not_kept_free_for_a_suspect_that_has_left_it(store: Store, end: str) -> None:
    suspect, other = enqueue(store), enqueue(store)
    seconds = lose_worker(store, suspect, "a", 0) + LONGEST_FIRST_WAIT
    at(store, seconds)
    reap(store)
    assert taken_id(store, "b") == suspect
    if end == "cancel":
        store.run(verb.cancel(suspect))
    elif end == "leave":
        store.run(verb.leave(MODEL, "w"))
        store.run(verb.cancel(suspect))
    elif end == "finish":
        store.run(verb.finish(suspect, "b", Status.SUCCEEDED, {"text": ""}))
    else:
        begin(store, suspect, "b")
        at(store, seconds + LEASE + 0.1)
        reap(store)
    assert taken_id(store, "c") == other


def test_a_jobs_neighbours_that_have_made_tokens_are_no_suspects(store: Store) -> None:
    ids = [enqueue(store) for _ in range(3)]
    for job_id, claim in zip(ids, "abc", strict=True):
        assert taken_id(store, claim, worker="dies") == job_id
        begin(store, job_id, claim)
    for job_id, claim in zip(ids[1:], "bc", strict=True):
        assert store.run(verb.append(job_id, claim, 0, [1], "a"))
    at(store, LEASE + 0.1)
    assert reap(store).requeued == 3
    assert (queue(store).normal, queue(store).delayed) == (2, 1)
    assert [look(store, job_id).attempt for job_id in ids] == [1, 0, 0]
    assert taken_id(store, "d") == ids[1]


def test_a_job_that_kills_its_worker_before_it_is_said_to_have_begun_is_failed_too(store: Store) -> None:
    job_id, seconds = enqueue(store), 0.0
    attempts = []
    while look(store, job_id).status is not Status.FAILED:
        at(store, seconds)
        reap(store)
        assert taken_id(store, f"c{seconds}") == job_id
        seconds += LEASE + 0.1
        at(store, seconds)
        reap(store)
        attempts.append(look(store, job_id).attempt)
        seconds += 5
    assert attempts == [0, 1, 2, 3]


def test_a_claim_is_refunded_its_own_charge_alone(store: Store) -> None:
    job_id = enqueue(store)
    seconds = lose_worker(store, job_id, "a", 0) + LONGEST_FIRST_WAIT
    at(store, seconds)
    reap(store)
    assert taken_id(store, "b") == job_id
    store.run(verb.release(job_id, "b", "gate_closed"))
    assert (look(store, job_id).attempt, look(store, job_id).takes) == (1, 1)
    assert queue(store).normal == 1


@pytest.mark.parametrize(("charge", "code"), [("keep", "worker_lost"), ("charge", "engine_error")])
def test_an_error_that_comes_back_each_time_fails_the_job_with_its_own_code(
    store: Store, charge: verb.Charge, code: str
) -> None:
    job_id = enqueue(store)
    error = FAILURE if charge == "charge" else None
    for seconds, claim in enumerate("abc"):
        at(store, 10 * seconds)
        reap(store)
        assert taken_id(store, claim) == job_id
        begin(store, job_id, claim)
        call = verb.release(job_id, claim, "engine", charge=charge, error=error, max_attempts=3)
        assert [store.run(call), store.run(call)] == [True, False]
    job = look(store, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == (Status.FAILED, code, 3)


def test_an_error_is_charged_also_after_a_token(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    begin(store, job_id, "a")
    store.run(verb.append(job_id, "a", 0, [1], "a"))
    store.run(verb.release(job_id, "a", "engine", charge="charge", error=FAILURE, max_attempts=3))
    assert (look(store, job_id).attempt, queue(store).delayed) == (1, 1)


def test_an_engine_that_cannot_resume_begins_anew_and_says_so(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    begin(store, job_id, "a")
    store.run(verb.append(job_id, "a", 0, [1, 2], "ab"))
    store.run(verb.release(job_id, "a", "drained"))
    taken_id(store, "b")
    for _ in range(2):
        assert store.run(verb.begin(job_id, "b", 1, anew=True))
    assert look(store, job_id).generated == 0
    assert store.run(verb.append(job_id, "b", 2, [3], "c")) is False
    assert store.run(verb.append(job_id, "b", 0, [7], "x"))
    kinds = ["started", "token", "queued", "started", "restarted", "token"]
    assert [kind for kind, _ in texts(store, job_id)] == kinds
    store.run(verb.cancel(job_id))
    output = look(store, job_id).output
    assert output is not None
    assert output["text"] == "x"


def test_leases_are_reaped_only_while_the_vigil_lasts(store: Store) -> None:
    job_id = enqueue(store)
    taken_id(store, "a")
    at(store, LEASE + 1)
    assert reap(store, reap_until=1000 + LEASE + 0.5).requeued == 0
    renew(store, worker="other", reap_until=0)
    assert look(store, job_id).status is Status.RUNNING
    renew(store, worker="other", reap_until=1000 + LEASE + 1.5)
    assert look(store, job_id).status is Status.QUEUED


def test_a_reaper_waits_a_lease_after_each_silence(store: Store) -> None:
    vigil = Vigil(LEASE)
    job_id = enqueue(store)
    for seconds in (0.0, 4.0, 8.0, 12.0):
        at(store, seconds)
        vigil.note(reap(store, vigil.reap_until).at)
    taken_id(store, "a")
    for seconds in (50.0, 53.0, 56.0, 59.9):
        # Redis was away, and the worker with it: who comes back first must not take the others for dead.
        at(store, seconds)
        vigil.note(reap(store, vigil.reap_until).at)
    assert look(store, job_id).status is Status.RUNNING
    at(store, 60.1)
    vigil.note(reap(store, vigil.reap_until).at)
    at(store, 60.2)
    vigil.note(reap(store, vigil.reap_until).at)
    assert look(store, job_id).status is Status.QUEUED
