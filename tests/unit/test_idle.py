import pytest

from nowserving.answer import Taken
from workers.idle import Idle
from workers.lease import Leases


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_idle_time_counts_from_the_word_on_and_only_while_nothing_runs(clock: Clock) -> None:
    idle = Idle(clock)
    clock.now += 50
    assert (idle.seconds, idle.total_seconds) == (50, 0)
    idle.count()
    clock.now += 2
    assert (idle.seconds, idle.total_seconds) == (52, 2)
    idle.note(busy=True)
    clock.now += 30
    assert (idle.seconds, idle.total_seconds) == (None, 2)
    idle.note(busy=False)
    clock.now += 5
    assert (idle.seconds, idle.total_seconds) == (5, 7)


def test_leases_are_busy_from_the_first_job_to_the_last(clock: Clock) -> None:
    leases = Leases(10.0, clock)

    def quiet() -> float | None:
        return leases.idle.seconds

    leases.idle.count()
    leases.add(["a", "b", "c"])
    clock.now += 1
    assert quiet() == 1  # a take under way is no job yet
    leases.fill(Taken("a", "job_a", {}))
    leases.fill(Taken("b", "job_b", {}))
    leases.fill(Taken("b", "job_b", {}))
    leases.drop("c", "nobody")
    leases.drop("a")
    leases.drop("a")
    assert quiet() is None
    clock.now += 7
    leases.lose(["b"])  # its task still runs
    assert quiet() is None
    leases.drop("b")
    leases.drop("b")
    clock.now += 3
    assert (quiet(), leases.idle.total_seconds) == (3, 4)


def test_each_claim_is_told_lost_once_and_by_whom(clock: Clock) -> None:
    leases, told = Leases(10.0, clock), list[bool]()
    leases.on_lost = told.append
    leases.add(["a", "b"])
    for claim in ("a", "b"):
        leases.fill(Taken(claim, f"job_{claim}", {}))
    leases.lose(["a", "unknown"])
    leases.lose(["a"])
    clock.now += 10
    leases.lose_expired()
    assert told == [False, True]
