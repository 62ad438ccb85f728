"""Several workers on one device, each with its fraction: all that they take fits, and none keeps another out.

What they hold is simulated; what they may take the budget, the probe's arithmetic and the gate decide themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowserving.errors import EngineError
from workers.engines import budget
from workers.gate import Closed, Reading, Verdict, decide
from workers.memory import Memory

TOTAL_BYTES = 100_000
CONTEXT_TOKENS = 200
BYTES_A_TOKEN = 10


def cost(tokens: Sequence[int]) -> int:
    return BYTES_A_TOKEN * sum(tokens)


@dataclass
class Worker:
    """One process on the device: what it holds, and jobs as their bounds of tokens."""

    fraction: float
    weights_bytes: int
    step_bytes: int
    running: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises EngineError if its share leaves no room for jobs."""
        probe = SimpleNamespace(read=lambda: Memory(0, TOTAL_BYTES, TOTAL_BYTES))
        loaded: Any = SimpleNamespace(device=SimpleNamespace(type="cpu"), weights_bytes=self.weights_bytes)
        with mock.patch.object(budget, "HostProbe", return_value=probe):
            self.budget_bytes = budget.budget_bytes(loaded, self.fraction, self.step_bytes)

    @property
    def own_bytes(self) -> int:
        return self.weights_bytes + cost(self.running)

    def judge(self, workers: Sequence[Worker]) -> Verdict:
        used = sum(worker.own_bytes for worker in workers)
        memory = Memory(used, TOTAL_BYTES - used, TOTAL_BYTES, self.own_bytes)
        room = memory.room_bytes(int(self.fraction * TOTAL_BYTES), None, self.step_bytes)
        return decide(
            Reading(False, True, 50, tuple(self.running), (), room, self.budget_bytes, CONTEXT_TOKENS, CONTEXT_TOKENS),
            cost,
        )


@st.composite
def devices(draw: st.DrawFn) -> list[Worker]:
    """Two to four workers, of one model or of several, whose fractions are 1 or less together."""
    shares = draw(st.lists(st.integers(5, 40), min_size=2, max_size=4))
    whole = max(100, sum(shares))
    made = []
    for share in shares:
        most = int(share / whole * TOTAL_BYTES)
        weights, step = draw(st.integers(0, most // 2)), draw(st.integers(0, most // 4))
        made.append(Worker(share / whole, weights, step))
    return made


@given(devices(), st.data())
def test_what_all_workers_take_fits_the_device_with_a_step_of_each(workers: list[Worker], data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 40))):
        worker = data.draw(st.sampled_from(workers))
        ends: bool = data.draw(st.sampled_from((False, True)))
        if worker.running and ends:
            worker.running.pop()
            continue
        verdict = worker.judge(workers)
        if verdict.closed is None:
            worker.running += [data.draw(st.integers(1, verdict.headroom))] * verdict.jobs
        assert sum(one.own_bytes + one.step_bytes for one in workers) <= TOTAL_BYTES
        assert cost(worker.running) <= worker.budget_bytes


@given(devices())
def test_a_worker_may_use_all_its_budget_however_full_the_others_are(workers: list[Worker]) -> None:
    for worker in workers:
        while (verdict := worker.judge(workers)).closed is None:
            worker.running += [verdict.headroom] * verdict.jobs
        assert verdict.closed in (Closed.LEDGER, Closed.GPU_MEMORY, Closed.SLOTS)
        assert verdict.closed is Closed.SLOTS or worker.budget_bytes - cost(worker.running) < BYTES_A_TOKEN


def test_a_share_without_room_for_jobs_is_refused_with_its_figures() -> None:
    with pytest.raises(EngineError, match=r"memory_fraction 0.2 .* leaves no room"):
        Worker(0.2, weights_bytes=15_000, step_bytes=5_000)
