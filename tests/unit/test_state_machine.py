"""The rules of a job's statuses, and a worker's own leases played against a model that is plain to see."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from nowserving.answer import Taken
from nowserving.errors import ClaimLostError
from nowserving.event import is_terminal
from nowserving.job import TRANSITIONS, Status
from workers.lease import Lease, Leases

LEASE = 10.0
PATHS = st.lists(st.integers(0, 5), max_size=12)


def walk(choices: list[int]) -> list[Status]:
    """A way from `queued` along the transitions, as far as the choices lead."""
    way = [Status.QUEUED]
    for choice in choices:
        follow = sorted(TRANSITIONS[way[-1]])
        if not follow:
            break
        way.append(follow[choice % len(follow)])
    return way


def test_every_status_is_said_what_follows_it_and_is_reached_from_queued() -> None:
    assert set(TRANSITIONS) == set(Status)
    reached = {Status.QUEUED}
    while more := {after for status in reached for after in TRANSITIONS[status]} - reached:
        reached |= more
    assert reached == set(Status)


@given(PATHS)
def test_a_job_waits_again_only_after_it_ran_and_nothing_follows_its_end(choices: list[int]) -> None:
    way = walk(choices)
    assert [status for status in way[:-1] if status.terminal] == []
    for before, after in pairwise(way):
        assert after is not Status.QUEUED or before is Status.RUNNING
        assert after is not Status.EXPIRED or before is Status.QUEUED
        assert after is not Status.SUCCEEDED or before is Status.RUNNING


@given(PATHS)
def test_from_wherever_a_job_stands_it_can_end(choices: list[int]) -> None:
    here = walk(choices)[-1]
    assert here.terminal or {Status.FAILED, Status.CANCELED} <= TRANSITIONS[here]


@given(st.sampled_from(Status))
def test_an_event_ends_a_job_exactly_if_its_status_does(status: Status) -> None:
    assert is_terminal(status.value) == status.terminal


@given(st.sampled_from(["started", "token", "restarted", "queued", "running", ""]))
def test_no_other_event_ends_a_job(kind: str) -> None:
    assert not is_terminal(kind)


@dataclass
class Known:
    """One claim in the model."""

    since: float
    deadline: float
    tokens: int | None = None
    begun: bool = False
    lost: bool = False
    stops: int = 0


class LeasesMachine(RuleBasedStateMachine):
    """`Leases` beside a dict that says what they must be, and the heartbeat's thread that keeps the deadlines.

    The clock is set by hand and never goes back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.leases = Leases(LEASE, lambda: self.now)
        self.known: dict[str, Known] = {}
        self.all: list[tuple[Lease, Known]] = []
        """Every lease that a take has ever filled, also those dropped since."""
        self.number = 0
        self.wakes_at = self.now + self.leases.seconds_to_deadline()

    def claim(self, pick: int) -> str:
        return f"c{pick % (self.number + 1)}"

    @rule(claims=st.integers(1, 3))
    def add(self, claims: int) -> None:
        names = [f"c{self.number + i}" for i in range(claims)]
        self.number += claims
        self.leases.add(names)
        self.known |= {name: Known(self.now, self.now + LEASE) for name in names}

    def unanswered(self) -> list[str]:
        return [claim for claim, known in self.known.items() if known.tokens is None and known.deadline > self.now]

    @precondition(lambda self: self.unanswered())
    @rule(pick=st.integers(0, 20), tokens=st.integers(1, 500))
    def fill(self, pick: int, tokens: int) -> None:
        """The take is answered, within a lease."""
        claims = self.unanswered()
        claim = claims[pick % len(claims)]
        lease = self.leases.fill(Taken(claim, f"job_{claim}", {"tokens": str(tokens)}))
        known = self.known[claim]
        known.tokens = tokens
        lease.stop = lambda: setattr(known, "stops", known.stops + 1)
        self.all.append((lease, known))

    @rule(pick=st.integers(0, 20))
    def begin(self, pick: int) -> None:
        claim = self.claim(pick)
        known = self.known.get(claim)
        if known is None or known.begun or known.lost:
            with pytest.raises(ClaimLostError):
                self.leases.begin(claim)
            if known is not None and known.lost and not known.begun:
                del self.known[claim]
        else:
            assert self.leases.begin(claim).claim == claim
            known.begun = True

    @rule(pick=st.integers(0, 20), tokens=st.integers(1, 500))
    def reserve(self, pick: int, tokens: int) -> None:
        for lease in self.leases.jobs():
            if lease.claim == self.claim(pick):
                self.leases.reserve(lease, tokens)
                self.known[lease.claim].tokens = tokens

    @rule(picks=st.lists(st.integers(0, 20), max_size=3), ago=st.sampled_from([0.0, 1.0, 4.0]))
    def renewed(self, picks: list[int], ago: float) -> None:
        """A beat names what stood when it was sent, and beats follow one another."""
        sent_at = self.now - ago
        names = {self.claim(pick) for pick in picks} & set(self.known)
        claims = {
            claim for claim in names if sent_at >= max(self.known[claim].since, self.known[claim].deadline - LEASE)
        }
        self.leases.renewed([*claims, "unknown"], sent_at)
        for claim in claims:
            self.known[claim].deadline = sent_at + LEASE

    @rule(picks=st.lists(st.integers(0, 20), max_size=3))
    def lose(self, picks: list[int]) -> None:
        """As the heartbeat does: only jobs are lost, not claims whose take is under way."""
        claims = {self.claim(pick) for pick in picks} & {lease.claim for lease in self.leases.jobs()}
        self.leases.lose([*claims, "unknown"])
        for claim in claims:
            self.known[claim].lost = True

    @rule(picks=st.lists(st.integers(0, 20), max_size=3))
    def drop(self, picks: list[int]) -> None:
        claims = [self.claim(pick) for pick in picks]
        self.leases.drop(*claims)
        for claim in claims:
            self.known.pop(claim, None)

    @rule(seconds=st.sampled_from([0.5, 4.0, 6.0, LEASE, 3 * LEASE]))
    def pass_time(self, seconds: float) -> None:
        """Meanwhile the thread wakes as often as it has asked to; takes not answered within a lease are given up."""
        until = self.now + seconds
        while self.wakes_at <= until:
            self.now = self.wakes_at
            self.give_up()
            self.lose_expired()
            seconds_to_deadline = self.leases.seconds_to_deadline()
            assert seconds_to_deadline > 0, "it would not sleep at all"
            self.wakes_at = self.now + seconds_to_deadline
        self.now = until
        self.give_up()

    def give_up(self) -> None:
        for claim in [c for c, known in self.known.items() if known.tokens is None and known.deadline <= self.now]:
            self.leases.drop(claim)
            del self.known[claim]

    @rule()
    def lose_expired(self) -> None:
        self.leases.lose_expired()
        for known in self.known.values():
            known.lost |= known.tokens is not None and known.deadline <= self.now

    @rule(seconds=st.sampled_from([0.0, 5.0, 8.0]))
    def stale(self, seconds: float) -> None:
        stale = {lease.claim for lease in self.leases.stale(seconds)}
        assert stale == {
            claim
            for claim, known in self.known.items()
            if known.tokens is not None and not known.begun and self.now - known.since > seconds
        }

    @invariant()
    def they_are_what_the_model_says(self) -> None:
        leases = {lease.claim: lease for lease in self.leases.all()}
        assert set(leases) == set(self.known)
        assert {lease.claim for lease in self.leases.jobs()} == {
            claim for claim, known in self.known.items() if known.tokens is not None
        }
        for claim, known in self.known.items():
            lease = leases[claim]
            assert (lease.since, lease.deadline, lease.begun) == (known.since, known.deadline, known.begun)
            assert lease.tokens == (known.tokens or 0)

    @invariant()
    def a_job_is_lost_at_its_deadline(self) -> None:
        for claim, known in self.known.items():
            assert known.lost or known.tokens is None or known.deadline > self.now, f"{claim} ended unseen: {known}"

    @invariant()
    def a_lost_lease_has_stopped_its_job_once_and_stays_lost(self) -> None:
        for lease, known in self.all:
            assert lease.lost.is_set() == known.lost
            assert known.stops == known.lost


def test_leases_are_as_they_must_be_after_every_step() -> None:
    examples = int(os.environ.get("NOWSERVING_TEST_EXAMPLES", "0"))
    options = settings(
        max_examples=examples or 300, deadline=None, derandomize=not examples, database=None, print_blob=True
    )
    run_state_machine_as_test(LeasesMachine, settings=options)
