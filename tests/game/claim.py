"""What a worker does under a claim, from the take to the end."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from nowserving import keys, verb
from nowserving.answer import Suspect, Taken, Unfit
from nowserving.call import Call
from nowserving.job import Status
from tests.board import LEASE, MODEL
from tests.game.memory import MAX_ATTEMPTS, MAX_TAKES
from tests.game.move import ENDED, Move, Step, go_back


@dataclass(frozen=True)
class Take(Move):
    worker: str
    claims: tuple[str, ...]
    headroom: int = 1000
    capacity: int = 1000
    repeatable = False  # it may fill claims that were left over

    def call(self) -> Call[Any]:
        return verb.take(
            MODEL,
            self.worker,
            self.claims,
            lease_seconds=LEASE,
            headroom=self.headroom,
            capacity=self.capacity,
            max_takes=MAX_TAKES,
        )

    def check(self, step: Step) -> None:
        before, after, memory = step.before, step.after, step.memory
        answer: tuple[Taken, ...] = step.answer if isinstance(step.answer, tuple) else ()
        held = before.hash(keys.HELD + self.worker)
        fresh = [taken for taken in answer if taken.claim not in held]
        assert all(held.get(t.claim, t.job_id) == t.job_id for t in answer), "a claim got another job than before"
        ended = {job_id for job_id in step.changed if after.status(job_id) in ENDED}
        for job_id in ended:
            late = float(before.record(job_id).get("start_by", "inf")) < memory.now
            worn = before.number(job_id, "takes") >= MAX_TAKES
            assert after.status(job_id) == ("expired" if late else "failed" if worn else ""), f"{job_id} was ended"
        step.only(*ended, *(taken.job_id for taken in fresh))
        order = [job_id for job_id in before.waiting(MODEL) if job_id not in ended]
        assert [taken.job_id for taken in fresh] == order[: len(fresh)], "not the first of the queue"
        share = ceil(len(before.waiting(MODEL)) / max(1, len(before.zset(keys.ALIVE + MODEL))))
        wanted = min(share, len([claim for claim in self.claims if claim not in held]))
        assert len(fresh) <= wanted, "more than its share"
        if len(fresh) < min(wanted, len(order)):
            left = order[len(fresh)]
            unfit = min(after.number(left, "tokens"), self.capacity) > self.headroom
            alone = after.hash(keys.ALONE + MODEL).get(self.worker) or (left in memory.suspects and (held or fresh))
            assert unfit or alone, f"{left} was left, though it fits"
        for taken in fresh:
            assert after.claim(taken.job_id) == taken.claim, "an answer that is not so"
            assert after.zset(keys.RUNNING + MODEL)[taken.job_id] == memory.now + LEASE, "not a lease from now"
            tokens = min(before.number(taken.job_id, "tokens"), self.capacity)
            assert tokens <= self.headroom, f"{tokens} tokens do not fit into {self.headroom}"
            assert float(before.record(taken.job_id).get("start_by", "inf")) >= memory.now, "it was to start before"
            assert after.number(taken.job_id, "takes") == before.number(taken.job_id, "takes") + 1
            memory.take(taken.job_id)
        if answer:
            memory.hidden.discard(self.worker)
        assert isinstance(step.answer, tuple | Unfit | Suspect), f"it raised {step.answer}"


@dataclass(frozen=True)
class Write(Move):
    """A write under a claim: without effect if that is not the job's."""

    job_id: str
    claim: str

    def check(self, step: Step) -> None:
        step.only(self.job_id)
        if step.before.claim(self.job_id) == self.claim:
            self.done(step)
        else:
            step.nothing()
            again = isinstance(self, Finish) and step.before.record(self.job_id).get("finished_by") == self.claim
            assert step.answer is again, f"a claim that is not the job's was told {step.answer}"

    def done(self, step: Step) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Begin(Write):
    anew: bool = False

    def call(self) -> Call[bool]:
        return verb.begin(self.job_id, self.claim, 3, anew=self.anew)

    def done(self, step: Step) -> None:
        assert step.answer is True
        anew = self.anew and step.memory.begun.get(self.job_id) != self.claim
        made = 0 if anew else step.before.number(self.job_id, "generated")
        assert step.after.number(self.job_id, "generated") == made
        step.memory.begin(self.job_id, self.claim)


@dataclass(frozen=True)
class Progress(Write):
    tokens: int

    def call(self) -> Call[bool]:
        return verb.progress(self.job_id, self.claim, self.tokens, 99)

    def done(self, step: Step) -> None:
        assert step.answer is True
        before, after = step.before.events(self.job_id), step.after.events(self.job_id)
        last = before[-1] if before else {"type": "none"}
        told = {"started": 0, "restarted": 0, "progress": int(last.get("done", 0))}.get(last["type"])
        if told is None or told >= self.tokens:
            step.nothing()
        else:
            assert after[:-1] == before
            said = {name: after[-1][name] for name in ("type", "stage", "done", "total")}
            assert said == {"type": "progress", "stage": "prefill", "done": str(self.tokens), "total": "99"}
            assert step.before.record(self.job_id) == step.after.record(self.job_id)


@dataclass(frozen=True)
class Append(Write):
    index: int
    count: int = 1

    def call(self) -> Call[bool]:
        ids = range(self.index, self.index + self.count)
        return verb.append(self.job_id, self.claim, self.index, ids, spell(ids))

    def done(self, step: Step) -> None:
        made = step.before.number(self.job_id, "generated")
        new = self.index == made
        assert step.answer is (new or self.index + self.count <= made), f"{step.answer} to {self} after {made} tokens"
        if new:
            assert step.after.number(self.job_id, "generated") == made + self.count
            step.memory.acquit(self.job_id)
        else:
            step.nothing()


@dataclass(frozen=True)
class Finish(Write):
    status: Status = Status.SUCCEEDED
    index: int = 0
    count: int = 0
    begun: int | None = None

    def call(self) -> Call[bool]:
        ids = range(self.index, self.index + self.count)
        result = {"code": "x"} if self.status is Status.FAILED else {"text": "x"}
        return verb.finish(
            self.job_id,
            self.claim,
            self.status,
            result,
            index=self.index,
            ids=ids,
            text=spell(ids),
            begun=self.begun,
        )

    def done(self, step: Step) -> None:
        assert step.answer is True
        assert step.after.status(self.job_id) == self.status
        if self.begun is not None:
            step.memory.begin(self.job_id, self.claim)
        if self.count and self.index == step.before.number(self.job_id, "generated"):
            step.memory.acquit(self.job_id)


@dataclass(frozen=True)
class Release(Write):
    charge: verb.Charge = "refund"
    tokens: int | None = None

    def call(self) -> Call[bool]:
        return verb.release(
            self.job_id,
            self.claim,
            "test",
            charge=self.charge,
            tokens=self.tokens,
            error={"code": "x"},
            max_attempts=MAX_ATTEMPTS,
        )

    def done(self, step: Step) -> None:
        assert step.answer is True
        memory, job_id = step.memory, self.job_id
        if self.charge != "keep":
            (memory.refund if self.charge == "refund" else memory.charge)(job_id)
        if memory.used_up(job_id):
            assert step.after.status(job_id) == "failed", "it has used up its attempts"
            return
        in_vain = job_id not in memory.charged and memory.begun.get(job_id) != self.claim
        takes = step.before.number(job_id, "takes") - in_vain
        assert step.after.number(job_id, "takes") == takes, "a take that came to nothing is none"
        assert self.tokens in (None, step.after.number(job_id, "tokens"))
        go_back(step, job_id)


def spell(ids: range) -> str:
    """The text of tokens: one letter each, so that a text shows its indexes."""
    return "".join(chr(97 + i % 26) for i in ids)
