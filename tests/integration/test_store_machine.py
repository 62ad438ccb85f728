"""Random games over the real scripts: all verbs interleaved, calls sent twice or late, answers lost, workers dead,
a clock that jumps. After every call everything that must be true at every instant is asked of Redis.

NOWSERVING_TEST_EXAMPLES=2000 plays so many games with random seeds in place of the few that are always the same.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from nowserving import verb
from nowserving.job import Status
from nowserving.store import Store
from tests.board import LEASE, MODEL
from tests.game.claim import Append, Begin, Finish, Progress, Release, Take, Write
from tests.game.client import Cancel, Enqueue
from tests.game.clock import Leave, Reap, Renew
from tests.game.table import Table

EXAMPLES = int(os.environ.get("NOWSERVING_TEST_EXAMPLES", "0"))
FATES = st.sampled_from(["arrives", "arrives", "is sent twice", "loses its answer"])
PICK = st.integers(0, 99)
MOST_OPEN = 6
VIGIL = st.sampled_from([-500.0, -0.5, 0.0, 5.0, 5.0])
"""Seconds from now till when a reaper may take others for dead."""
COUNT = st.integers(1, 3)


class StoreMachine(RuleBasedStateMachine):
    """One model, and a few workers that a beat, a death or a lost answer can befall at any time."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.table = Table(store)
        self.workers: dict[str, dict[str, str]] = {"w_a": {}, "w_b": {}}
        """Live workers, and the claims (→ job) that each knows of."""

    @initialize(jobs=st.integers(1, 4), suspects=st.booleans())
    def begin_game(self, jobs: int, suspects: bool) -> None:
        """A few jobs wait; maybe they have killed a worker already."""
        for _ in range(jobs):
            self.table.send(Enqueue(self.table.new("job_")))
        if suspects:
            self.table.send(Take("killed", tuple(self.table.new("c") for _ in range(jobs))))
            for job_id, claim in self.table.running():
                self.table.send(Begin(job_id, claim))
            for seconds in (LEASE + 0.5, 1.5):
                self.table.set_clock(self.table.memory.now + seconds)
                self.table.send(Reap())

    @precondition(lambda self: len(self.table.open()) < MOST_OPEN)
    @rule(
        lane=st.sampled_from(["normal", "batch"]),
        new_tokens=st.sampled_from([10, 100]),
        start_within=st.sampled_from([None, 5.0, 40.0]),
        retain=st.sampled_from([300.0, 86400.0]),  # no game lasts so long by the clock of the wall
        key=st.sampled_from(["", "", "k", "l"]),
        fingerprint=st.sampled_from("fg"),
        max_depth=st.sampled_from([100, 100, 2]),
        fate=FATES,
    )
    def enqueue(
        self,
        lane: str,
        new_tokens: int,
        start_within: float | None,
        retain: float,
        key: str,
        fingerprint: str,
        max_depth: int,
        fate: str,
    ) -> None:
        job_id = self.table.new("job_")
        self.table.send(Enqueue(job_id, lane, new_tokens, retain, start_within, key, fingerprint, max_depth), fate)

    @precondition(lambda self: self.table.dump.waiting(MODEL))
    @rule(
        pick=PICK,
        claims=COUNT,
        headroom=st.sampled_from([50, 1000, 1000]),
        begin=st.sampled_from([None, False, True]),
        tokens=st.integers(0, 2),
        fate=FATES,
    )
    def take(self, pick: int, claims: int, headroom: int, begin: bool | None, tokens: int, fate: str) -> None:
        """A worker takes jobs and maybe begins them, anew or not, and makes the first tokens of each."""
        worker = self._worker(pick)
        move = Take(worker, tuple(self.table.new("c") for _ in range(claims)), headroom)
        answer = self.table.send(move, fate)
        for taken in answer if isinstance(answer, tuple) else ():
            self.workers[worker][taken.claim] = taken.job_id
            if begin is not None:
                self.table.send(Begin(taken.job_id, taken.claim, anew=begin))
                if tokens:
                    made = self.table.dump.number(taken.job_id, "generated")
                    self.table.send(Append(taken.job_id, taken.claim, made, tokens))

    @precondition(lambda self: self.table.claims)
    @rule(
        pick=PICK,
        late=st.sampled_from([False, False, False, True]),
        kind=st.sampled_from([Begin, Progress, Append, Append, Finish, Release, Release]),
        flag=st.booleans(),
        shift=st.sampled_from([0, 0, 0, -2, -1, 1]),
        tokens=COUNT,
        status=st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.CANCELED]),
        charge=st.sampled_from(["refund", "keep", "charge"]),
        fate=FATES,
    )
    def write(
        self,
        pick: int,
        late: bool,
        kind: type[Write],
        flag: bool,
        shift: int,
        tokens: int,
        status: Status,
        charge: verb.Charge,
        fate: str,
    ) -> None:
        """A worker writes under a claim, or, late, under any that there ever was: it has stalled, or is of the dead."""
        claims = self.table.claims if late or not self.table.running() else self.table.running()
        job_id, claim = claims[pick % len(claims)]
        index = max(0, self.table.dump.number(job_id, "generated") + shift)
        moves: dict[type[Write], Write] = {
            Begin: Begin(job_id, claim, anew=flag),
            Progress: Progress(job_id, claim, tokens),
            Append: Append(job_id, claim, index, tokens),
            Finish: Finish(job_id, claim, status, index, tokens - 1, begun=3 if flag else None),
            Release: Release(job_id, claim, charge, tokens=50 * tokens if flag else None),
        }
        self.table.send(moves[kind], fate)

    @rule(
        pick=PICK,
        what=st.sampled_from(["renews", "renews", "renews", "leaves", "dies"]),
        draining=st.sampled_from([False, False, True]),
        blocked=st.booleans(),
        vigil=VIGIL,
        fate=FATES,
    )
    def worker(self, pick: int, what: str, draining: bool, blocked: bool, vigil: float, fate: str) -> None:
        """One of the dead is never heard of again, but for what it had sent before, and under whose claims."""
        name = self._worker(pick)
        if what == "renews":
            self.renew(
                name, Renew(name, tuple(self.workers[name]), draining, blocked, self.table.memory.now + vigil), fate
            )
            return
        if what == "leaves":
            self.table.send(Leave(name), fate)
        del self.workers[name]
        self.workers[self.table.new("w_")] = {}

    def renew(self, name: str, move: Renew, fate: str) -> None:
        """A heartbeat, as workers/heartbeat.py does it: strangers are takes whose answers were lost."""
        beat = self.table.send(move, fate)
        if beat:
            for claim in beat.lost:
                del self.workers[name][claim]
            for claim, job_id in beat.strangers:
                self.table.send(Release(job_id, claim))
            held = {claim for holder, claim in self.table.dump.held() if holder == name}
            assert held == set(self.workers[name]), f"{name} knows {self.workers[name]}, and holds {held}"

    @rule(
        seconds=st.sampled_from([-0.5, 1.0, 4.0, 4.0, LEASE + 0.5, 400.0]),
        reap=st.sampled_from([False, True, True]),
        vigil=VIGIL,
        fate=FATES,
    )
    def pass_time(self, seconds: float, reap: bool, vigil: float, fate: str) -> None:
        self.table.set_clock(self.table.memory.now + seconds)
        if reap:
            self.table.send(Reap(self.table.memory.now + vigil), fate)

    @precondition(lambda self: self.table.sent)
    @rule(pick=PICK, cancel=st.sampled_from([False, False, True]), fate=FATES)
    def disturb(self, pick: int, cancel: bool, fate: str) -> None:
        """A client cancels a job, or a call that was under way when its connection broke is executed only now."""
        if cancel:
            ids = [*self.table.open(), max(self.table.memory.accepted), "job_0"]
            self.table.send(Cancel(ids[pick % len(ids)]), fate)
            return
        move = self.table.sent[-1 - pick % len(self.table.sent)]
        # An id may be used again once its job is forgotten; that is another job.
        if (
            not isinstance(move, Enqueue)
            or self.table.dump.record(move.job_id)
            or move.job_id not in self.table.memory.accepted
        ):
            self.table.execute(move)

    def teardown(self) -> None:
        if not self.table.broken:
            self.table.ask()
            self.table.bring_to_an_end()

    def _worker(self, pick: int) -> str:
        return sorted(self.workers)[pick % len(self.workers)]


@pytest.mark.timeout(0 if EXAMPLES else 600)  # a failure takes its time to be made small
def test_every_game_keeps_every_promise(store: Store, request: pytest.FixtureRequest) -> None:
    class Game(StoreMachine):
        def __init__(self) -> None:
            super().__init__(store)

    options = settings(
        max_examples=EXAMPLES or (20 if "fakeredis" in request.node.name else 60),
        stateful_step_count=50,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(Game, settings=options)
