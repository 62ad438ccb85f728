"""What time brings about, and who lets it: the heartbeat, the APIs' tick, a worker that signs off."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from nowserving import keys, verb
from nowserving.answer import Beat, Reaped
from nowserving.call import Call
from tests.board import ALWAYS, LEASE, MODEL
from tests.game.memory import MAX_ATTEMPTS
from tests.game.move import Move, Step, go_back


def time_passes(step: Step, reaping: bool) -> Counter[str]:
    """What only a clock has brought about; how many jobs it has queued, failed, expired, forgotten."""
    before, after, memory = step.before, step.after, step.memory
    became: Counter[str] = Counter()
    for job_id in step.changed:
        was, now, record = before.status(job_id), after.status(job_id), before.record(job_id)
        if not now:
            assert before.zset(keys.FINISHED)[job_id] <= memory.now, f"{job_id} was forgotten early"
            became["forgotten"] += 1
            continue
        if was == "running":
            assert reaping, f"{job_id} was reaped by one who may not"
            assert before.zset(keys.RUNNING + MODEL)[job_id] <= memory.now, f"{job_id} was reaped before its time"
            used_up = memory.used_up(job_id)
            assert (now == "failed") == used_up, f"{job_id} {now} after {memory.attempts[job_id]} charges"
            became["failed" if used_up else "queued"] += 1
            if not used_up:
                if memory.begun.get(job_id) != before.claim(job_id):
                    memory.suspects.add(job_id)
                if now == "queued":
                    go_back(step, job_id)
        if now == "expired":
            assert float(record["start_by"]) <= memory.now, f"{job_id} expired before its time"
            became["expired"] += 1
    for key in (keys.RUNNING, keys.DELAYED, keys.STARTING, keys.ALIVE, keys.BLOCKED):
        late = {member for member, due in after.zset(key + MODEL).items() if due <= memory.now}
        assert not late or (key == keys.RUNNING and not reaping), f"{late} still in {key}"
    for worker in [worker for worker, until in memory.alive_until.items() if until <= memory.now]:
        del memory.alive_until[worker]
    return became


@dataclass(frozen=True)
class Renew(Move):
    worker: str
    claims: tuple[str, ...]
    draining: bool = False
    blocked: bool = False
    reap_until: float = ALWAYS

    def call(self) -> Call[Beat]:
        return verb.renew(
            MODEL,
            self.worker,
            self.claims,
            lease_seconds=LEASE,
            draining=self.draining,
            blocked=self.blocked,
            reap_until=self.reap_until,
            max_attempts=MAX_ATTEMPTS,
            info={"slots": 2},
        )

    def check(self, step: Step) -> None:
        before, after, memory, beat = step.before, step.after, step.memory, step.answer
        held = before.hash(keys.HELD + self.worker)
        assert set(beat.lost) == set(self.claims) - set(held), f"lost: {beat.lost}"
        assert dict(beat.strangers) == {c: i for c, i in held.items() if c not in self.claims}, f"{beat.strangers}"
        assert beat.at == memory.now
        for claim in set(self.claims) & set(held):
            assert after.claim(held[claim]) == claim, "it has lost a claim that it renewed"
            assert after.zset(keys.RUNNING + MODEL)[held[claim]] == memory.now + LEASE, "not a lease from now"
        blocked = self.worker in after.zset(keys.BLOCKED + MODEL)
        assert (blocked, self.worker in after.zset(keys.ALIVE + MODEL)) == (self.blocked, True)
        memory.alive_until[self.worker] = memory.now + LEASE
        (memory.hidden.add if self.draining else memory.hidden.discard)(self.worker)
        assert not time_passes(step, memory.now <= self.reap_until)["forgotten"], "forgotten by a worker"


@dataclass(frozen=True)
class Reap(Move):
    reap_until: float = ALWAYS

    def call(self) -> Call[Reaped]:
        return verb.reap("me", [MODEL], period_seconds=0, max_attempts=MAX_ATTEMPTS, reap_until=self.reap_until)

    def check(self, step: Step) -> None:
        became, said = time_passes(step, step.memory.now <= self.reap_until), step.answer
        told = {"queued": said.requeued, "failed": said.failed, "expired": said.expired, "forgotten": said.forgotten}
        assert +became == +Counter(told), f"{became} was told as {told}"
        assert said.at == step.memory.now
        assert not {i for i, until in step.after.zset(keys.FINISHED).items() if until <= step.memory.now}


@dataclass(frozen=True)
class Leave(Move):
    worker: str

    def call(self) -> Call[int]:
        return verb.leave(MODEL, self.worker)

    def check(self, step: Step) -> None:
        held = step.before.hash(keys.HELD + self.worker).values()
        assert step.answer == len(held)
        step.only(*held)
        for job_id in held:
            assert step.after.status(job_id) == "queued", f"{job_id} was not handed back"
            step.memory.refund(job_id)
            go_back(step, job_id)
        places = [keys.ALONE + MODEL, keys.BUSY + MODEL, keys.BLOCKED + MODEL, keys.ALIVE + MODEL, keys.WORKERS + MODEL]
        left = [key for key in places if self.worker in {*step.after.hash(key), *step.after.zset(key)}]
        assert not left, f"it still stands in {left}"
        step.memory.alive_until.pop(self.worker, None)
