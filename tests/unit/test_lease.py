import time

import pytest

from nowserving.answer import Taken
from nowserving.errors import ClaimLostError
from workers.lease import Lease, Leases


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(10.0, clock)


def taken(leases: Leases, claim: str) -> Lease:
    leases.add([claim])
    return leases.fill(Taken(claim, f"job_{claim}", {"tokens": "5"}))


def test_a_claim_is_begun_once(leases: Leases) -> None:
    taken(leases, "a")
    assert leases.begin("a").job_id == "job_a"
    with pytest.raises(ClaimLostError):
        leases.begin("a")


@pytest.mark.parametrize("claim", ["unknown", "a"])
def test_an_unknown_or_lost_claim_is_refused(leases: Leases, claim: str) -> None:
    taken(leases, "a")
    leases.lose(["a"])
    with pytest.raises(ClaimLostError):
        leases.begin(claim)


def test_a_lease_ends_by_its_own_clock(leases: Leases, clock: Clock) -> None:
    stopped: list[str] = []
    one, other = taken(leases, "one"), taken(leases, "other")
    one.stop, other.stop = (lambda: stopped.append("one")), (lambda: stopped.append("other"))
    clock.now += 9
    leases.renewed(["other"], sent_at=clock.now)
    clock.now += 1
    leases.lose_expired()
    leases.lose_expired()
    assert stopped == ["one"]
    assert one.lost.is_set()
    assert not other.lost.is_set()


def test_a_claim_whose_take_is_under_way_is_named_but_no_job(leases: Leases, clock: Clock) -> None:
    leases.add(["a"])
    clock.now += 1000
    leases.lose_expired()
    assert [lease.claim for lease in leases.all()] == ["a"]
    assert leases.jobs() == []


def test_a_deadline_is_not_slept_over_though_the_take_is_answered_late(leases: Leases, clock: Clock) -> None:
    leases.add(["a"])
    clock.now += 6
    assert leases.seconds_to_deadline() == 4
    leases.fill(Taken("a", "job_a", {"tokens": "5"}))
    assert leases.seconds_to_deadline() == 4
    clock.now += 4
    leases.lose_expired()
    assert leases.seconds_to_deadline() == 10


def test_one_that_is_lost_before_a_task_begins_is_dropped_when_one_tries(leases: Leases) -> None:
    taken(leases, "a")
    taken(leases, "b")
    leases.begin("b")
    leases.lose(["a", "b"])
    for claim in ("a", "b"):
        with pytest.raises(ClaimLostError):
            leases.begin(claim)
    assert [lease.claim for lease in leases.jobs()] == ["b"]


def test_an_engine_that_would_end_the_thread_which_cancels_does_not(leases: Leases) -> None:
    def stop() -> None:
        raise SystemExit("no")

    taken(leases, "a").stop = stop
    leases.lose(["a"])


@pytest.mark.parametrize("change", ["drop", "reserve"])
def test_a_change_before_the_wait_is_not_waited_for(leases: Leases, change: str) -> None:
    lease = taken(leases, "a")
    before = leases.changes
    leases.drop("a") if change == "drop" else leases.reserve(lease, 3)
    began = time.monotonic()
    leases.wait_for_change(60, before)
    assert time.monotonic() - began < 30
    leases.wait_for_change(0.001, leases.changes)


def test_a_job_that_no_task_begins_is_stale(leases: Leases, clock: Clock) -> None:
    taken(leases, "a")
    taken(leases, "b")
    leases.begin("b")
    clock.now += 6
    assert [lease.claim for lease in leases.stale(5)] == ["a"]


def test_a_dropped_claim_is_forgotten(leases: Leases) -> None:
    taken(leases, "a")
    leases.drop("a")
    leases.drop("a")
    assert leases.all() == []
