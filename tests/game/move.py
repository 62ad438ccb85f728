"""A move: one verb with its arguments, and what the call must have done and left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nowserving import keys
from nowserving.call import Call
from nowserving.job import Status
from tests.board import MODEL
from tests.game.dump import Dump
from tests.game.memory import Memory

ENDED = {status.value for status in Status if status.terminal}


@dataclass(frozen=True)
class Step:
    """One call as it was executed: what Redis held before and after it, and its answer (or the error it raised)."""

    before: Dump
    after: Dump
    answer: Any
    memory: Memory

    @property
    def changed(self) -> set[str]:
        """The jobs whose record or events have changed."""
        ids = {*self.before.ids(), *self.after.ids()}
        return {
            i
            for i in ids
            if (self.before.record(i), self.before.events(i)) != (self.after.record(i), self.after.events(i))
        }

    def nothing(self) -> None:
        """Redis holds what it held."""
        assert self.before == self.after, f"it has changed {self.changed or 'keys'}"

    def only(self, *job_ids: str) -> None:
        """No other job has changed."""
        assert self.changed <= set(job_ids), f"it has changed {self.changed - set(job_ids)}, too"


class Move:
    """Sent twice at once it does nothing the second time, if `repeatable`."""

    repeatable: ClassVar[bool] = True

    def call(self) -> Call[Any]:
        raise NotImplementedError

    def check(self, step: Step) -> None:
        raise NotImplementedError


def go_back(step: Step, job_id: str) -> None:
    """It is queued again: at its old place, or, if a charge stands, after a while that doubles with each."""
    memory, due = step.memory, step.after.zset(keys.DELAYED + MODEL).get(job_id)
    if job_id in memory.charged:
        memory.suspects.add(job_id)
        longest = min(60, 2 ** (memory.attempts[job_id] - 1))
        assert due is not None, f"{job_id} is queued at once, though its charge stands"
        assert longest / 2 <= due - memory.now <= longest, f"{job_id} waits {due - memory.now} s, not {longest}"
    else:
        assert due is None, f"{job_id} waits, though it is uncharged"
    memory.charged.discard(job_id)
