"""The gate: how many jobs, of how many tokens, may this worker take now, and if none, why. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

Cost = Callable[[Sequence[int]], int]
"""Jobs' token bounds to the bytes they take together; grows with each."""


class Closed(StrEnum):
    """Why nothing is taken. SUSPECT comes from the take, the rest from `decide`."""

    DRAINING = "draining"
    ENGINE = "engine"
    SLOTS = "slots"
    SUSPECT = "suspect"
    GPU_MEMORY = "gpu_memory"
    LEDGER = "ledger"

    @property
    def by_memory(self) -> bool:
        """Whether it is for want of memory."""
        return self in (Closed.GPU_MEMORY, Closed.LEDGER)

    @property
    def full(self) -> bool:
        """Whether the worker then counts as blocked: what waits, another worker would have to take."""
        return self.by_memory or self in (Closed.SLOTS, Closed.SUSPECT)


@dataclass(frozen=True, slots=True)
class Reading:
    """All that the decision rests on. Bytes are of the device the cache lives on; jobs are given as token bounds."""

    draining: bool
    engine_ready: bool
    slots: int
    running: tuple[int, ...]
    """Every job taken and not finished."""
    unallocated: tuple[int, ...]
    """Those of `running` whose memory the measurement cannot show yet."""
    room_bytes: int
    """What the measurement says may still be taken."""
    budget_bytes: int
    context_tokens: int
    likely_tokens: int
    """What those that wait are likely to need, each: as many of these as fit are taken at once."""
    engine_full: bool = False
    """The engine itself says that it has no room."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`closed` is None while the gate is open. So many `jobs` of up to `headroom` tokens fit; `scarce` bounds them."""

    closed: Closed | None
    headroom: int = 0
    jobs: int = 1
    scarce: Closed = Closed.LEDGER


def decide(reading: Reading, cost: Cost) -> Verdict:
    """Judge one reading. The order of reasons is that of what must change first."""
    if reading.draining:
        return Verdict(Closed.DRAINING)
    if not reading.engine_ready:
        return Verdict(Closed.ENGINE)
    if len(reading.running) >= reading.slots:
        return Verdict(Closed.SLOTS)
    if reading.room_bytes <= 0 or reading.engine_full:
        return Verdict(Closed.GPU_MEMORY)
    context_tokens = reading.context_tokens
    likely_tokens = min(reading.likely_tokens, context_tokens)

    def fit(jobs: int) -> bool:
        many = (likely_tokens,) * jobs
        return (
            cost((*reading.running, *many)) <= reading.budget_bytes
            and cost((*reading.unallocated, *many)) <= reading.room_bytes
        )

    jobs = max(1, _most(fit, reading.slots - len(reading.running)))
    promised_tokens = most_tokens(cost, reading.running, reading.budget_bytes, context_tokens, jobs)
    measured_tokens = most_tokens(cost, reading.unallocated, reading.room_bytes, context_tokens, jobs)
    scarce = Closed.GPU_MEMORY if measured_tokens < promised_tokens else Closed.LEDGER
    headroom = min(promised_tokens, measured_tokens)
    return Verdict(None if headroom > 0 else scarce, headroom, jobs, scarce)


def most_tokens(cost: Cost, running: Sequence[int], room_bytes: int, context_tokens: int, jobs: int = 1) -> int:
    """The largest size, up to the context, of which so many `jobs` cost no more than the room when they join `running`.

    0 if there is none.
    """
    return _most(lambda tokens: cost((*running, *(tokens,) * jobs)) <= room_bytes, context_tokens)


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to the limit that fits, as all below it do; 0 is not asked for."""
    if fits(limit):
        return limit
    most, too_many = 0, limit
    while too_many - most > 1:
        middle = (most + too_many) // 2
        if fits(middle):
            most = middle
        else:
            too_many = middle
    return most
