from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.gate import Closed, Reading, decide, most_tokens

OPEN = Reading(
    draining=False,
    engine_ready=True,
    slots=4,
    running=(),
    unallocated=(),
    room_bytes=10_000,
    budget_bytes=10_000,
    context_tokens=100,
    likely_tokens=100,
)


def cost(tokens: Sequence[int]) -> int:
    return 10 * sum(tokens)


def test_a_worker_with_room_for_all_its_slots_may_fill_them_at_once() -> None:
    verdict = decide(OPEN, cost)
    assert (verdict.closed, verdict.headroom, verdict.jobs) == (None, 100, 4)
    assert decide(replace(OPEN, running=(100,)), cost).jobs == 3


def test_with_less_room_as_many_are_taken_as_fit_if_they_are_as_large_as_is_likely() -> None:
    verdict = decide(replace(OPEN, budget_bytes=3_999), cost)
    assert (verdict.closed, verdict.headroom, verdict.jobs) == (None, 100, 3)
    verdict = decide(replace(OPEN, budget_bytes=2_000, likely_tokens=60), cost)
    assert (verdict.headroom, verdict.jobs) == (66, 3)
    verdict = decide(replace(OPEN, budget_bytes=2_000, likely_tokens=50), cost)
    assert (verdict.headroom, verdict.jobs) == (50, 4)


@pytest.mark.parametrize("likely_tokens", [80, 100, 10_000])
def test_one_job_may_have_all_the_room_if_a_likely_one_does_not_fit(likely_tokens: int) -> None:
    verdict = decide(replace(OPEN, budget_bytes=700, likely_tokens=likely_tokens), cost)
    assert (verdict.closed, verdict.headroom, verdict.jobs) == (None, 70, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"draining": True, "engine_ready": False}, Closed.DRAINING),
        ({"engine_ready": False, "running": (1, 1, 1, 1)}, Closed.ENGINE),
        ({"running": (1, 1, 1, 1), "room_bytes": 0}, Closed.SLOTS),
        ({"room_bytes": 0, "budget_bytes": 0}, Closed.GPU_MEMORY),
        ({"room_bytes": 1}, Closed.GPU_MEMORY),
        ({"budget_bytes": 500, "running": (50,)}, Closed.LEDGER),
    ],
)
def test_a_closed_gate_says_what_must_change_first(change: dict[str, object], reason: Closed) -> None:
    assert decide(replace(OPEN, **change), cost).closed is reason  # type: ignore[arg-type]


def test_what_is_scarcer_bounds_the_headroom() -> None:
    by_ledger = decide(replace(OPEN, budget_bytes=800, running=(50,)), cost)
    assert (by_ledger.headroom, by_ledger.scarce) == (30, Closed.LEDGER)
    by_memory = decide(replace(OPEN, room_bytes=200), cost)
    assert (by_memory.headroom, by_memory.scarce) == (20, Closed.GPU_MEMORY)


def test_memory_promised_but_not_yet_visible_is_counted() -> None:
    verdict = decide(replace(OPEN, room_bytes=1_000, running=(60,), unallocated=(60,)), cost)
    assert verdict.headroom == 40


def test_an_engine_without_room_closes_the_gate_for_memory() -> None:
    assert decide(replace(OPEN, engine_full=True), cost).closed is Closed.GPU_MEMORY
    assert decide(replace(OPEN, engine_full=True, draining=True), cost).closed is Closed.DRAINING


@given(
    st.lists(st.integers(0, 200), max_size=8),
    st.integers(0, 20_000),
    st.integers(1, 500),
)
def test_the_most_tokens_is_the_largest_that_fits(running: list[int], room: int, context: int) -> None:
    most = most_tokens(cost, running, room, context)
    assert 0 <= most <= context
    assert most == 0 or cost((*running, most)) <= room
    assert most == context or cost((*running, most + 1)) > room


@given(st.integers(0, 12_000), st.integers(0, 12_000), st.lists(st.integers(1, 100), max_size=6), st.integers(1, 200))
def test_whatever_fits_the_headroom_keeps_both_bounds(room: int, budget: int, running: list[int], likely: int) -> None:
    reading = replace(OPEN, room_bytes=room, budget_bytes=budget, running=tuple(running), slots=8, likely_tokens=likely)
    verdict = decide(reading, cost)
    if verdict.closed is None:
        most = (verdict.headroom,) * verdict.jobs
        assert cost((*running, *most)) <= budget
        assert cost(most) <= room
        assert verdict.jobs == 1 or verdict.headroom >= min(likely, reading.context_tokens)


@given(
    st.integers(0, 12_000),
    st.integers(0, 2_000),
    st.integers(0, 12_000),
    st.lists(st.integers(1, 100), max_size=6),
    st.integers(0, 8),
    st.integers(1, 200),
)
def test_a_fuller_worker_is_never_let_take_more(
    room: int, more: int, budget: int, running: list[int], slots: int, likely: int
) -> None:
    reading = replace(
        OPEN, room_bytes=room, budget_bytes=budget, running=tuple(running), slots=slots, likely_tokens=likely
    )
    emptier, fuller = decide(reading, cost), decide(replace(reading, room_bytes=room - more), cost)
    for verdict in (emptier, fuller):
        assert (verdict.closed is None) == (verdict.headroom > 0)
        assert verdict.closed or 1 <= verdict.jobs <= slots - len(running)
    assert fuller.headroom <= emptier.headroom or fuller.jobs < emptier.jobs
    assert fuller.closed or fuller.jobs <= emptier.jobs
    assert not emptier.closed or fuller.closed
