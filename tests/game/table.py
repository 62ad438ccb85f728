"""The table a game is played at: it sends the moves, and judges everything that Redis holds after each."""

from __future__ import annotations

from itertools import count
from typing import Any

from nowserving import keys
from nowserving.errors import NowservingError
from nowserving.store import Store
from tests.board import LEASE, MODEL
from tests.game.claim import Finish, Take
from tests.game.client import Ask
from tests.game.clock import Renew
from tests.game.dump import Dump
from tests.game.law import wrong_between, wrong_in
from tests.game.memory import MAX_ATTEMPTS, MAX_TAKES, Memory
from tests.game.move import ENDED, Move, Step

QUESTIONS = ("look", "list", "queues", "workers", "read")


class Table:
    """An empty Redis at first, a clock set by hand, and what is known of all that was sent."""

    def __init__(self, store: Store) -> None:
        self.store, self.memory, self.numbers = store, Memory(), count(1)
        self.claims: list[tuple[str, str]] = []
        """(job, claim) of every claim that was ever made."""
        self.sent: list[Move] = []
        self.broken = False
        """Whether something has been found wrong, or a move was cut short: then there is nothing more to judge."""
        store.client.flushall()
        self.set_clock(self.memory.now)
        self.dump = Dump.of(store)

    def set_clock(self, now: float) -> None:
        self.memory.now = now
        self.store.now = repr(now)

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self.numbers)}"

    def open(self) -> list[str]:
        """The jobs that have not ended."""
        return [job_id for job_id in self.dump.ids() if self.dump.status(job_id) not in ENDED]

    def running(self) -> list[tuple[str, str]]:
        """(job, claim) of every claim that stands."""
        return [(job_id, claim) for (_, claim), job_id in sorted(self.dump.held().items())]

    def send(self, move: Move, fate: str = "arrives") -> Any:
        """Make one move; its answer, or None if that is lost."""
        answer = self.execute(move)
        if fate == "is sent twice":
            middle, first = self.dump, answer
            answer = self.execute(move)
            if move.repeatable:
                assert middle == self.dump, f"{move} sent twice is not as if sent once"
            elif isinstance(first, tuple):
                assert isinstance(answer, tuple), f"{move} sent twice gets {answer}"
                assert first == answer[: len(first)], f"{move} sent twice takes other jobs"
        self.sent.append(move)
        return None if fate == "loses its answer" else answer

    def execute(self, move: Move) -> Any:
        """Send the call and judge what has become of everything. Raises AssertionError."""
        self.broken = True
        try:
            answer: Any = self.store.run(move.call())
        except NowservingError as error:
            answer = error
        before, self.dump = self.dump, Dump.of(self.store)
        try:
            move.check(Step(before, self.dump, answer, self.memory))
            self._judge(before)
        except AssertionError as error:
            error.add_note(f"at {self.memory.now - 1000:g} s, after {move}, which was answered {answer}")
            raise
        self.claims += [pair for pair in self.running() if pair not in self.claims]
        self.broken = False
        return answer

    def _judge(self, before: Dump) -> None:
        wrong = [*wrong_in(self.dump, MODEL, self.memory.hidden), *wrong_between(before, self.dump, MODEL)]
        assert not wrong, "\n".join(wrong)
        for job_id in self.dump.ids():
            self._judge_attempts(job_id)
            if before.claim(job_id) and not self.dump.claim(job_id):
                self._judge_run_time(before, job_id)
            if self.dump.status(job_id) == "running" and job_id in self.memory.suspects:
                worker = self.dump.record(job_id)["worker"]
                assert self.dump.hash(keys.ALONE + MODEL).get(worker) == job_id, f"nothing keeps {worker} for {job_id}"
                assert len(self.dump.hash(keys.HELD + worker)) == 1, f"{job_id} does not run alone"

    def _judge_attempts(self, job_id: str) -> None:
        attempt, takes = self.dump.number(job_id, "attempt"), self.dump.number(job_id, "takes")
        assert attempt == self.memory.attempts[job_id], (
            f"{job_id}: {self.memory.attempts[job_id]} charges, not {attempt}"
        )
        assert 0 <= attempt <= MAX_ATTEMPTS, f"{job_id} has {attempt} attempts"
        assert 0 <= takes <= MAX_TAKES, f"{job_id} has {takes} takes"

    def _judge_run_time(self, before: Dump, job_id: str) -> None:
        """A claim has ended: it ran till now, or, if its lease has lapsed, till the last renewal for certain."""
        record, deadline = before.record(job_id), before.zset(keys.RUNNING + MODEL)[job_id]
        until = self.memory.now if self.memory.now <= deadline else deadline - LEASE
        ran = float(record.get("ran_seconds", 0)) + max(0.0, until - float(record["taken_at"]))
        said = float(self.dump.record(job_id)["ran_seconds"])
        assert abs(said - ran) < 1e-5, f"{job_id} ran {ran} s, not {said} s"

    def ask(self) -> None:
        """Every question once."""
        for what in QUESTIONS:
            self.send(Ask(what, min(self.memory.accepted, default="job_0")))

    def bring_to_an_end(self) -> None:
        """One healthy worker brings every job to its end, and then nothing is left in any place."""
        for _ in range(100):
            if not self.open():
                break
            self.set_clock(self.memory.now + LEASE / 2)
            self.execute(Renew("healthy", ()))
            self.execute(Take("healthy", tuple(self.new("c") for _ in range(3))))
            for job_id, claim in self.running():
                if self.dump.record(job_id)["worker"] == "healthy":
                    self.execute(Finish(job_id, claim, index=self.dump.number(job_id, "generated"), count=1, begun=3))
        assert not self.open(), f"not ended: {[self.dump.record(job_id) for job_id in self.open()]}"
        places = (keys.QUEUE, keys.DELAYED, keys.STARTING, keys.RUNNING, keys.BUSY, keys.ALONE, keys.HELD)
        left = [key for key in (*self.dump.zsets, *self.dump.hashes) if key.startswith(places)]
        assert not left, f"{left} are not empty"
