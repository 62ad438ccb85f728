"""Records of deliveries that nobody of ours wrote so, on fakeredis and on a real Redis: each event finds its way."""

from __future__ import annotations

import json

import pytest

from nowserving import keys, letter, verb
from nowserving.delivery import DeliveryStatus
from nowserving.errors import RecordError
from nowserving.job import VERSION, Status
from nowserving.store import Store
from tests.board import at, take
from tests.letterbox import FAILED, end, ended, enqueue, of, pick_one, receiver, reconcile, settle

ALONE = receiver(limit=1)


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    at(store, 0)


def key_of(job_id: str) -> str:
    return f"{keys.JOB}dlv_{job_id[4:]}_succeeded"


@pytest.mark.parametrize("limit", ["0", "-5", "nan", "x", "1e99"])
def test_a_host_has_always_one_turn_whatever_its_limit_says(store: Store, limit: str) -> None:
    jobs = [ended(store, ALONE) for _ in range(2)]
    store.client.hset(key_of(jobs[1]), "limit", limit)
    assert settle(store, pick_one(store))
    assert reconcile(store) == []
    assert settle(store, pick_one(store))
    assert [of(store, job_id)[0].status for job_id in jobs] == [DeliveryStatus.DELIVERED] * 2


@pytest.mark.parametrize("limit", ["0", "-5"])
def test_a_receiver_in_a_jobs_record_has_always_one_turn(store: Store, limit: str) -> None:
    job_id = enqueue(store, ALONE)
    text = str(store.client.hget(keys.JOB + job_id, "webhook"))
    store.client.hset(keys.JOB + job_id, "webhook", text.replace('"limit":1', f'"limit":{limit}'))
    end(store, job_id)
    assert settle(store, pick_one(store))


def test_what_stands_in_a_deliverys_place_before_its_birth_stops_no_job(store: Store) -> None:
    job_id = enqueue(store, receiver())
    store.client.hset(key_of(job_id), mapping={"start_by": "x", "tries": "7", "v": "x"})
    end(store, job_id)
    assert of(store, job_id)[0].tries == 0
    assert settle(store, pick_one(store))


def test_a_large_output_that_is_no_json_is_left_out(store: Store) -> None:
    job_id = enqueue(store, receiver())
    take(store, "a")
    assert store.run(verb.finish(job_id, "a", Status.SUCCEEDED, {"text": "x" * 20_000, "odds": float("nan")}))
    said = json.loads(pick_one(store).fields["said"])
    assert int(said["output_bytes"]) > 20_000


LINES = ["junk", "7", "[1]", '{"a": 1}', '[1e999, 1, 1, null, ""]', '[1, 1e999, 1, null, ""]', '[[], 1, 1, null, ""]']


@pytest.mark.parametrize("line", [*LINES, f"[1{'0' * 400}, 1, 1, null, null]", "[" * 5000])
def test_an_unreadable_attempt_keeps_no_event_from_its_receiver(store: Store, line: str) -> None:
    job_id = ended(store, receiver())
    store.client.hset(key_of(job_id), "log", line)
    assert of(store, job_id)[0].attempts == ()
    assert settle(store, pick_one(store), "retry", FAILED)
    assert of(store, job_id)[0].attempts == (FAILED,)


def test_less_than_no_attempts_were_never_made(store: Store) -> None:
    job_id = ended(store, receiver())
    store.client.hset(key_of(job_id), "tries", "-50")
    with pytest.raises(RecordError):
        store.run(letter.redeliver(key_of(job_id).removeprefix(keys.JOB)))


def test_a_delivery_of_a_newer_version_keeps_its_place_in_the_line(store: Store) -> None:
    _, newer, last = (ended(store, ALONE) for _ in range(3))
    store.client.hset(key_of(newer), "v", str(VERSION + 1))
    assert settle(store, pick_one(store))
    taken = pick_one(store)
    assert taken.fields["job"] == last
    store.client.hset(key_of(newer), "v", str(VERSION))
    assert settle(store, taken)
    assert pick_one(store).fields["job"] == newer


def test_a_lost_counter_goes_on_after_the_last_delivery(store: Store) -> None:
    ended(store, receiver(), receiver())
    store.client.delete(keys.SEQUENCE)
    ended(store, receiver(), receiver())
    newer, cursor = store.run(letter.list_deliveries(limit=2))
    older, _ = store.run(letter.list_deliveries(before=cursor))
    assert len(newer + older) == 4
    assert reconcile(store) == []
