"""The contract of the scripts, on fakeredis and on a real Redis: deliveries, from the job's end to the receiver's."""

from __future__ import annotations

import json

import pytest

from nowserving import keys, letter, verb
from nowserving.answer import Tally
from nowserving.delivery import WEBHOOKS, Attempt, DeliveryStatus, is_delivery_id
from nowserving.errors import DeliveryNotFoundError
from nowserving.job import Status, new_job_id
from nowserving.store import Store
from tests.board import ALWAYS, at, look, renew, take, texts
from tests.letterbox import DONE, FAILED, answers, end, ended, enqueue, of, pick, receiver, reconcile, settle, tick

ALL = ("job.started", "job.succeeded", "job.failed", "job.canceled", "job.expired")


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    at(store, 0)


def test_a_job_without_receivers_brings_no_delivery_about(store: Store) -> None:
    job_id = ended(store)
    assert of(store, job_id) == []
    assert pick(store, "a") == []


def test_an_end_and_its_delivery_are_one_step(store: Store) -> None:
    job_id = ended(store, receiver(), traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")  # type: ignore[arg-type]
    (delivery,) = of(store, job_id)
    assert is_delivery_id(delivery.id)
    assert (delivery.id, delivery.event) == (f"dlv_{job_id[4:]}_succeeded", "job.succeeded")
    assert (delivery.status, delivery.tries, delivery.attempts) == (DeliveryStatus.PENDING, 0, ())
    assert store.run(verb.look(job_id)).deliveries == (delivery,)
    (taken,) = pick(store, "a", "b")
    said = json.loads(taken.fields["said"])
    assert (said["id"], said["status"], json.loads(said["output"])["text"]) == (job_id, "succeeded", "hi")
    assert "input" not in said
    assert taken.fields["traceparent"].startswith("00-1")
    assert of(store, job_id)[0].status is DeliveryStatus.SENDING
    assert settle(store, taken)
    (delivery,) = of(store, job_id)
    assert (delivery.status, delivery.tries, delivery.attempts) == (DeliveryStatus.DELIVERED, 1, (DONE,))
    assert look(store, job_id).status is Status.SUCCEEDED


@pytest.mark.parametrize("end_of_job", ["failed", "canceled", "expired"])
def test_each_end_is_told(store: Store, end_of_job: str) -> None:
    job_id = enqueue(store, receiver(events=ALL))
    if end_of_job == "canceled":
        store.run(verb.cancel(job_id))
    elif end_of_job == "failed":
        take(store, "c")
        store.run(verb.finish(job_id, "c", Status.FAILED, {"code": "x", "message": "y", "retryable": False}))
    else:
        store.client.hset(keys.JOB + job_id, "start_by", "1000")
        store.client.zadd(keys.STARTING + "m", {job_id: 1000})
        at(store, 1)
        tick(store)
    assert [delivery.event for delivery in of(store, job_id)] == [f"job.{end_of_job}"]


def test_a_start_is_told_once_however_often_it_is_tried(store: Store) -> None:
    job_id = enqueue(store, receiver(events=ALL))
    take(store, "a")
    store.run(verb.begin(job_id, "a", 3))
    assert [delivery.event for delivery in of(store, job_id)] == ["job.started"]
    store.client.delete(keys.JOB + of(store, job_id)[0].id)
    store.run(verb.release(job_id, "a", "drained"))
    take(store, "b")
    store.run(verb.begin(job_id, "b", 3))
    assert of(store, job_id) == []


def test_each_receiver_hears_of_what_it_asked_for(store: Store) -> None:
    first, second = receiver("one:443", events=["job.failed"]), receiver("two:443", name="shop", events=ALL)
    job_id = ended(store, first, second)
    started, succeeded = of(store, job_id)
    assert (started.id, started.receiver) == (f"dlv_{job_id[4:]}_started_2", "shop")
    assert (succeeded.id, succeeded.url) == (f"dlv_{job_id[4:]}_succeeded_2", "https://two:443/hook")


def test_large_parts_of_a_job_are_not_kept_twice(store: Store) -> None:
    job_id = enqueue(store, receiver())
    take(store, "a")
    store.client.hset(keys.JOB + job_id, "parameters", "x" * 6001)
    usage = {"prompt_tokens": 3, "completion_tokens": 9000}
    store.run(verb.finish(job_id, "a", Status.SUCCEEDED, {"text": "x" * 20_000, "usage": usage}))
    said = json.loads(pick(store, "b")[0].fields["said"])
    assert json.loads(said["output"]) == {"text": None, "usage": usage}
    assert int(said["output_bytes"]) > 20_000
    assert ("parameters" in said, said["parameters_bytes"]) == (False, "6001")


def test_a_retry_waits_its_time_and_keeps_its_id(store: Store) -> None:
    job_id = ended(store, receiver())
    (taken,) = pick(store, "a")
    assert settle(store, taken, "retry", FAILED, delay=5)
    assert settle(store, taken, "retry", FAILED, delay=5), "a repeat is answered alike"
    (delivery,) = of(store, job_id)
    assert (delivery.status, delivery.next_attempt_at, delivery.tries) == (DeliveryStatus.PENDING, 1005, 1)
    at(store, 4)
    tick(store)
    assert pick(store, "b") == []
    at(store, 6)
    tick(store)
    (again,) = pick(store, "b")
    assert again.job_id == taken.job_id
    assert settle(store, taken, "retry", FAILED, delay=5), "a late repeat changes nothing"
    assert of(store, job_id)[0].status is DeliveryStatus.SENDING
    assert settle(store, again)
    assert not settle(store, taken)
    assert [attempt.status for attempt in of(store, job_id)[0].attempts] == [500, 204]
    assert store.run(letter.tally()) == Tally(0, 0, 0, 0, attempts=2, delivered=1, dead=0, stopped=0)


def test_what_a_dead_deliverer_held_is_sent_again_at_once_and_by_several(store: Store) -> None:
    answers(store)
    ids = [ended(store, receiver()) for _ in range(3)]
    assert len(pick(store, "a", "b", "c")) == 3
    at(store, 11)
    tick(store)
    taken = pick(store, "d", "e", "f", worker="other")
    assert {each.fields["job"] for each in taken} == set(ids)
    assert all(settle(store, each) for each in taken)


def test_a_leaving_deliverer_hands_back(store: Store) -> None:
    job_id = ended(store, receiver())
    pick(store, "a")
    store.run(verb.leave(WEBHOOKS, "d"))
    (delivery,) = of(store, job_id)
    assert delivery.status is DeliveryStatus.PENDING
    assert texts(store, delivery.id) == []
    assert len(pick(store, "b")) == 1


def test_at_most_so_many_go_to_one_host_and_others_pass(store: Store) -> None:
    answers(store, "dead:443")
    dead, live = receiver("dead:443", limit=2), receiver("live:443")
    jobs = [ended(store, dead) for _ in range(5)]
    other = ended(store, live)
    taken = pick(store, *"abcdefgh")
    assert [each.fields["job"] for each in taken] == [*jobs[:2], other]
    assert store.run(letter.tally()).line == 3
    assert settle(store, taken[0], "retry", FAILED, delay=60)
    assert [each.fields["job"] for each in pick(store, "i", "j")] == [jobs[2]]


def test_hosts_that_are_not_known_to_answer_go_behind_all_others(store: Store) -> None:
    answers(store, "live:443")
    unknown, known = ended(store, receiver("new:443")), ended(store, receiver("live:443"))
    taken = pick(store, "a", "b")
    assert [each.fields["job"] for each in taken] == [known, unknown]
    assert [each.fields["tokens"] for each in taken] == ["1", "2"]
    assert settle(store, taken[1])
    assert settle(store, taken[0], "retry", FAILED, delay=5, slow=True)
    later, again = ended(store, receiver("new:443")), taken[0].fields["job"]
    at(store, 6)
    tick(store)
    taken = pick(store, "c", "d")
    assert [each.fields["job"] for each in taken] == [later, again]
    assert [each.fields["tokens"] for each in taken] == ["1", "2"]


def test_what_a_silent_host_keeps_waiting_for_too_long_is_given_up(store: Store) -> None:
    old = [ended(store, receiver()) for _ in range(3)]
    (taken,) = pick(store, "a", "b")
    at(store, 5)
    renew(store, "a", worker="d", model=WEBHOOKS)
    young = ended(store, receiver())
    call = letter.settle(taken.job_id, "a", "retry", FAILED, delay_seconds=60, slow=True, patience_seconds=4)
    assert store.run(call)
    gone = of(store, old[1])[0]
    assert (gone.status, gone.tries) == (DeliveryStatus.DEAD, 0)
    assert gone.attempts[0].error == "given up: its host has answered nobody for too long"
    assert of(store, old[2])[0].status is DeliveryStatus.DEAD
    assert of(store, old[0])[0].status is DeliveryStatus.PENDING
    assert [each.fields["job"] for each in pick(store, "b", "c")] == [young]
    assert store.run(letter.redeliver(gone.id)).status is DeliveryStatus.PENDING
    assert reconcile(store) == []


def test_a_host_gets_one_at_a_time_till_it_is_known_to_answer(store: Store) -> None:
    for _ in range(6):
        ended(store, receiver(limit=4))
    (first,) = pick(store, *"abcd")
    assert settle(store, first)
    assert len(pick(store, *"efgh")) == 4


def test_a_host_that_gives_no_answer_gets_one_at_a_time(store: Store) -> None:
    answers(store, "dead:443")
    for _ in range(9):
        ended(store, receiver("dead:443", limit=4))
    taken = pick(store, *"abcd")
    for each in taken:
        assert settle(store, each, "retry", FAILED, delay=60, slow=True)
    (probe,) = pick(store, *"efgh")
    assert not store.client.exists(keys.BRISK + "dead:443")
    assert settle(store, probe), "it answers again"
    assert len(pick(store, *"ijkl")) == 4


def test_a_dead_delivery_is_kept_longer_than_its_job_and_sent_again_by_hand(store: Store) -> None:
    job_id = ended(store, receiver(), retain=60)
    (taken,) = pick(store, "a")
    assert settle(store, taken, "dead", FAILED)
    at(store, 3600)
    tick(store)
    (delivery,) = of(store, job_id)
    assert delivery.status is DeliveryStatus.DEAD
    assert store.run(letter.list_deliveries(status=DeliveryStatus.DEAD))[0] == [delivery]
    store.client.hset(keys.JOB + delivery.id, "takes", 50)
    for _ in range(2):
        anew = store.run(letter.redeliver(delivery.id))
        assert (anew.status, anew.finished_at, anew.tries) == (DeliveryStatus.PENDING, None, 0)
    assert store.client.ttl(keys.JOB + delivery.id) == -1
    (again,) = pick(store, "b", "c")
    assert store.run(letter.redeliver(delivery.id)).status is DeliveryStatus.SENDING
    assert settle(store, again)
    at(store, 3661)
    tick(store)
    assert of(store, job_id) == []
    assert store.run(letter.list_deliveries()) == ([], None)
    with pytest.raises(DeliveryNotFoundError):
        store.run(letter.redeliver(delivery.id))


def test_a_delayed_delivery_can_be_sent_now(store: Store) -> None:
    job_id = ended(store, receiver())
    settle(store, pick(store, "a")[0], "retry", FAILED, delay=3600)
    store.run(letter.redeliver(of(store, job_id)[0].id))
    assert len(pick(store, "b")) == 1


def test_a_receiver_that_is_gone_stops_its_delivery(store: Store) -> None:
    job_id = ended(store, receiver())
    assert settle(store, pick(store, "a")[0], "stopped", FAILED)
    assert of(store, job_id)[0].status is DeliveryStatus.STOPPED


def test_a_job_is_no_delivery_and_a_delivery_no_job(store: Store) -> None:
    job_id = ended(store, receiver())
    delivery_id = of(store, job_id)[0].id
    with pytest.raises(DeliveryNotFoundError):
        store.run(letter.redeliver(job_id))
    assert [job.id for job in store.run(verb.list_jobs())[0]] == [job_id]
    assert texts(store, delivery_id) == []
    assert store.run(letter.deliveries_of(new_job_id())) == []


@pytest.mark.parametrize(
    "garbage", ["", "x", "[1]", "{}", '[{"url": 1}]', "[" * 2000, '[{"url":"a","host":"b c","events":[]}]']
)
def test_garbage_for_receivers_stops_no_job(store: Store, garbage: str) -> None:
    job_id = enqueue(store, receiver())
    store.client.hset(keys.JOB + job_id, "webhook", garbage)
    end(store, job_id)
    assert of(store, job_id) == []


def test_an_answer_of_any_characters_is_one_line_of_the_log(store: Store) -> None:
    job_id = ended(store, receiver())
    odd = Attempt(at=1000, status=500, seconds=1, answer="a\u2028b\x85c\nd\x1ee\0")
    assert settle(store, pick(store, "a")[0], "dead", odd)
    assert of(store, job_id)[0].attempts == (odd,)


def test_however_many_attempts_there_are_the_log_keeps_the_last(store: Store) -> None:
    job_id = ended(store, receiver())
    for number in range(60):
        at(store, number * 10)
        tick(store)
        assert settle(store, pick(store, f"c{number}")[0], "retry", FAILED, delay=1)
    (delivery,) = of(store, job_id)
    assert (delivery.tries, len(delivery.attempts)) == (60, 20)


def test_only_takes_that_come_to_nothing_are_counted_against_a_delivery(store: Store) -> None:
    job_id = ended(store, receiver())
    for number in range(120):
        at(store, number * 10)
        tick(store)
        assert settle(store, pick(store, f"c{number}")[0], "retry", FAILED, delay=1)
    assert of(store, job_id)[0].status is DeliveryStatus.PENDING


def test_time_and_leases_work_for_deliveries_as_for_jobs(store: Store) -> None:
    ended(store, receiver())
    (taken,) = pick(store, "a")
    at(store, 8)
    assert renew(store, "a", model=WEBHOOKS, worker="d", reap_until=ALWAYS).lost == ()
    at(store, 16)
    tick(store)
    assert settle(store, taken)
