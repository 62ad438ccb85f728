"""The witness: notes in Redis, in the same atomic step, each take and each write of a claim and what came of it.

The workers of these tests load it around the scripts (see witnessed.py). What a worker notes itself would miss the
writes whose reply was cut or whose worker died before it could note them; this misses none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import redis

from nowserving import script as scripts
from tests.worker_process import WorkerProcess

KEY = "witness"
CLAIMED = scripts.UNDER_A_CLAIM
"""The scripts whose arguments are now, id, claim, …"""
PAGE = 5000

_NOTE = f"redis.call('XADD', '{KEY}', '*', 'verb', '%s', 'id', %s, 'claim', %s, 'said', %s)"
_AFTER_TAKE = f"""
if type(answer[1]) == 'table' then
  for _, job in ipairs(answer) do {_NOTE % ("take", "job[2]", "job[1]", "'ok'")} end
end"""


def around(script: str, source: str) -> str:
    """The script's source, with a note after what it did."""
    if script != "take" and script not in CLAIMED:
        return source
    after = _AFTER_TAKE if script == "take" else _NOTE % (script, "ARGV[2]", "ARGV[3]", "answer[1]")
    return f"local function verb()\n{source}\nend\nlocal answer = verb()\n{after}\nreturn answer\n"


class WitnessedWorker(WorkerProcess):
    """A worker whose claims have a witness."""

    app = "tests.chaos.witnessed"


def install() -> None:
    """Let every store made after this in this process use the noting scripts."""
    original = scripts.source
    scripts.source = lambda script: around(script, original(script))


@dataclass(frozen=True, slots=True)
class Act:
    """One step of a claim. `at` is Unix seconds by Redis's clock; the order of acts is Redis's own."""

    at: float
    verb: str
    job_id: str
    claim: str
    said: str

    @property
    def refused(self) -> bool:
        """Whether it changed nothing."""
        return self.said in ("lost", "gap")


def read(client: redis.Redis) -> list[Act]:
    """All that was witnessed, in order."""
    acts: list[Act] = []
    after = "-"
    while True:
        page = cast(list[tuple[str, dict[str, str]]], client.xrange(KEY, min=after, count=PAGE))
        for entry_id, note in page:
            at = int(entry_id.split("-")[0]) / 1000
            acts.append(Act(at, note["verb"], note["id"], note["claim"], note["said"]))
        if len(page) < PAGE:
            return acts
        after = f"({page[-1][0]}"


def by_job(acts: Iterable[Act]) -> Mapping[str, list[Act]]:
    """The acts of each job."""
    sorted_out: dict[str, list[Act]] = {}
    for act in acts:
        sorted_out.setdefault(act.job_id, []).append(act)
    return sorted_out


def overlaps(acts: Iterable[Act]) -> list[str]:
    """What is wrong with one job's acts: claims whose [take, last accepted write] meet, and writes of no take."""
    spans: dict[str, tuple[int, int]] = {}
    wrong = []
    for order, act in enumerate(acts):
        if act.refused:
            continue
        if act.claim not in spans:
            if act.verb != "take":
                wrong.append(f"{act.job_id}: {act.verb} was accepted for {act.claim}, which never took it")
            spans[act.claim] = (order, order)
        spans[act.claim] = (spans[act.claim][0], order)
    ordered = sorted(spans.items(), key=lambda item: item[1])
    for (earlier, (_, end)), (later, (start, _)) in pairwise(ordered):
        if start < end:
            wrong.append(f"claim {later} took the job before the last write of {earlier} was accepted")
    return wrong
