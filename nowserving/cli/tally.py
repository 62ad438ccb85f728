"""The demo's last line: what became of all its jobs, counted from what their readers saw and from what Redis holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nowserving.cli.watch import Watched, describe
from nowserving.job import Status


@dataclass(frozen=True, slots=True)
class Tally:
    """`lost`: accepted, and no end was seen. `twice`: token indexes that came again, and ends beyond the first."""

    accepted: int
    done: int
    lost: int
    twice: int

    def __str__(self) -> str:
        return f"accepted {self.accepted} · done {self.done} · lost {self.lost} · twice {self.twice}"


def tally(jobs: Iterable[Watched], ends: Mapping[str, int]) -> Tally:
    """Count. `ends` says how many terminal events Redis holds of each job."""
    accepted = [watched for watched in jobs if watched.job_id]
    return Tally(
        accepted=len(accepted),
        done=sum(watched.status is Status.SUCCEEDED for watched in accepted),
        lost=sum(not watched.end_seen for watched in accepted),
        twice=sum(watched.repeated + max(0, ends.get(watched.job_id, 0) - 1) for watched in accepted),
    )


def find_wrong(jobs: Iterable[Watched], ends: Mapping[str, int]) -> list[str]:
    """A sentence for each thing that should not be."""
    wrong = []
    for watched in jobs:
        name = f"{watched.number} ({watched.job_id})"
        if watched.status is not Status.SUCCEEDED:
            wrong.append(describe(watched))
        elif watched.text != watched.output:
            wrong.append(f"{name}: its tokens' text is not its result")
        if watched.repeated or watched.missing:
            wrong.append(f"{name}: {watched.repeated} tokens came twice, {watched.missing} are missing")
        if (count := ends.get(watched.job_id, 0)) != 1:
            wrong.append(f"{name}: it ended {count} times")
    return wrong


def count_ends(redis_url: str, job_ids: Sequence[str]) -> dict[str, int]:
    """How many terminal events each job's stream holds: over HTTP a stream is over with the first."""
    # Here and not above: redis-py would cost every other command its import.
    from nowserving import verb
    from nowserving.store import Store, connect

    ends = dict.fromkeys(job_ids, 0)
    store = Store(connect(redis_url))
    try:
        for job_id in job_ids:
            after = "0"
            while events := store.run(verb.read_events({job_id: after}))[job_id]:
                ends[job_id] += sum(event.terminal for event in events)
                after = events[-1].id
    finally:
        store.close()
    return ends
