"""What the storm has come to: every figure that must be zero, and those that show how hard it blew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from nowserving import keys, verb
from nowserving.errors import JobNotFoundError
from nowserving.job import Job, Status
from nowserving.store import Store
from tests.chaos import witness
from tests.chaos.crowd import Tale, words
from tests.chaos.sight import Sight


@dataclass
class Verdict:
    """`wrong` counts what must not be, by name; `details` has a line for each case; `shown` is the table's rest."""

    wrong: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    shown: dict[str, object] = field(default_factory=dict)

    def blame(self, name: str, details: Iterable[str]) -> None:
        """Count these cases under a name; a name without a case stands in the table with a zero."""
        for detail in details:
            self.count(name, 1, detail)
        self.count(name, 0)

    def count(self, name: str, cases: int, detail: str = "") -> None:
        """Add so many cases, of which the detail tells."""
        self.wrong[name] += cases
        if cases:
            self.details.append(f"{name}: {detail}")

    def rows(self) -> dict[str, object]:
        """All figures; last those that must be zero."""
        return {**self.shown, **self.wrong}

    def table(self) -> str:
        """The rows as text."""
        rows = self.rows()
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value!s:>8}" for name, value in rows.items())


def judge(store: Store, tales: Sequence[Tale]) -> Verdict:
    """Compare what the clients saw, what the witness noted and what Redis holds now."""
    verdict = Verdict()
    told = {tale.job_id: tale for tale in tales if tale.job_id}
    jobs = {job_id: job for job_id in told if (job := _find(store, job_id))}
    verdict.blame("lost", (f"{tale}" for tale in told.values() if not _ended(jobs.get(tale.job_id))))
    acts = witness.by_job(witness.read(store.client))
    verdict.blame(
        "doubled: overlapping claims", (wrong for of_job in acts.values() for wrong in witness.overlaps(of_job))
    )
    stray = set(cast(list[str], store.client.zrange(keys.JOBS, 0, -1))) - set(told)
    verdict.blame("doubled: jobs of a repeated POST", stray if all(tale.job_id for tale in tales) else ())
    streams = {job_id: _read(store, job_id) for job_id in jobs}
    verdict.blame(
        "terminal events not exactly 1", (f"{job_id}: {s}" for job_id, s in streams.items() if s.terminal != 1)
    )
    seen = {f"stream of {job_id}": sight for job_id, sight in streams.items()}
    seen |= {f"reader of {tale.job_id}": tale.sight for tale in told.values() if tale.way == "stream"}
    _count_tokens(verdict, seen)
    verdict.blame("wrong texts", _wrong_texts(told, jobs, streams))
    verdict.blame("wrong ends", _wrong_ends(told, jobs))
    for kind, times in store.run(verb.mended()).items():
        verdict.count("mended by the reconciler", times, kind)
    verdict.count("mended by the reconciler", 0)
    verdict.shown = {
        "jobs accepted": len(told),
        "… canceled of asked": f"{sum(t.canceled for t in tales)} of {sum(t.cancel_asked for t in tales)}",
        "… taken more than once": sum(_takes(of_job) > 1 for of_job in acts.values()),
        "… takes of one job, most": max(map(_takes, acts.values()), default=0),
        "writes accepted": sum(not act.refused for of_job in acts.values() for act in of_job),
        "late writes refused": sum(act.refused for of_job in acts.values() for act in of_job),
        "event streams read live": sum(tale.way == "stream" for tale in told.values()),
        "… connections they took": sum(tale.sight.connections for tale in told.values()),
    }
    return verdict


def _count_tokens(verdict: Verdict, seen: Mapping[str, Sight]) -> None:
    for who, sight in seen.items():
        verdict.count("repeated token indexes", sight.repeated, f"{who}: {sight}")
        verdict.count("missing token indexes", sight.missing, f"{who}: {sight}")


def _wrong_texts(told: Mapping[str, Tale], jobs: Mapping[str, Job], streams: Mapping[str, Sight]) -> Iterable[str]:
    """Texts unlike those of a calm run; a canceled job has the beginning of its text."""
    for job_id, job in jobs.items():
        tale, text = told[job_id], (job.output or {}).get("text")
        tokens = job.generated if job.status is Status.CANCELED else tale.tokens
        if _ended(job) and text != words(tokens):
            yield f"{job_id}: {text!r}, not {tokens} words"
        if _ended(job) and (wrong := streams[job_id].wrong(words(tokens))):
            yield f"stream of {job_id}: {wrong}"
        if tale.way == "stream" and tale.status and (wrong := tale.sight.wrong(words(tokens))):
            yield f"reader of {job_id}: {wrong}"


def _wrong_ends(told: Mapping[str, Tale], jobs: Mapping[str, Job]) -> Iterable[str]:
    """Jobs that ended otherwise than their client was told or had to expect."""
    for job_id, job in jobs.items():
        tale = told[job_id]
        expected = Status.CANCELED if tale.canceled else Status.SUCCEEDED
        if _ended(job) and (job.status is not expected or tale.status is not expected):
            yield f"{job_id} is {job.status}, {tale}, {job.error}"


def _find(store: Store, job_id: str) -> Job | None:
    try:
        return store.run(verb.look(job_id)).job
    except JobNotFoundError:
        return None


def _ended(job: Job | None) -> bool:
    return job is not None and job.status.terminal


def _read(store: Store, job_id: str) -> Sight:
    """The stream as a reader sees it that comes only now."""
    sight, after = Sight(), "0"
    while events := store.run(verb.read_events({job_id: after}))[job_id]:
        for event in events:
            sight.see(event.type, event.data)
        after = events[-1].id
    return sight


def _takes(acts: Iterable[witness.Act]) -> int:
    return len({act.claim for act in acts if act.verb == "take"})
