"""Why a queued job waits, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.outlook import EXPLANATIONS, count_slots, estimate_wait_seconds, find_reason
from nowserving.answer import Wait


def worker(reason: str | None = None, state: str = "ready", slots: int = 2, running: int = 0) -> dict[str, Any]:
    gate = {"open": reason is None, "reason": reason}
    return {"state": state, "slots": slots, "running": running, "gate": gate}


def wait(
    *workers: dict[str, Any], position: int = 0, run_seconds: float | None = 4.0, delayed_until: float | None = None
) -> Wait:
    return Wait(position, position + 1, run_seconds, delayed_until, workers)


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        (wait(), "no_worker"),
        (wait(worker(), delayed_until=9.0), "retry_backoff"),
        (wait(worker(), position=3), "behind"),
        (wait(worker()), "starting"),
        (wait(worker("slots"), worker(), position=3), "behind"),
        (wait(worker("slots", running=2), position=3), "slots"),
        (wait(worker("slots"), worker("gpu_memory")), "gpu_memory"),
        (wait(worker("ledger")), "ledger"),
        (wait(worker("engine", state="loading")), "engine"),
        (wait(worker("draining", state="draining")), "draining"),
        (wait(worker("draining", state="draining"), worker("engine", state="loading")), "engine"),
        (wait({}), "engine"),
    ],
)
def test_the_reason(waiting: Wait, reason: str) -> None:
    assert find_reason(waiting) == reason


@pytest.mark.parametrize(
    ("waiting", "seconds"),
    [
        (wait(worker()), 0.0),
        (wait(worker(running=1), position=0), 0.0),
        (wait(worker("slots", running=2), position=0), 2.0),
        (wait(worker("slots", running=2), position=5), 12.0),
        (wait(worker("slots", running=2), worker("slots", running=2), position=5), 6.0),
        (wait(worker("slots", running=2), position=5, run_seconds=None), None),
        (wait(position=5), None),
        (wait(worker("engine", state="loading")), None),
        (wait(delayed_until=103.5), 3.5),
        (wait(delayed_until=99.0), 0.0),
    ],
)
def test_the_estimate(waiting: Wait, seconds: float | None) -> None:
    assert estimate_wait_seconds(waiting, now=100.0) == seconds


def test_slots_of_workers_that_are_not_ready_do_not_count() -> None:
    assert count_slots((worker(slots=3), worker(slots=5, state="loading"), worker(slots=7, state="draining"))) == 3


states = st.sampled_from(["loading", "ready", "draining"])
reasons = st.sampled_from([None, "gpu_memory", "ledger", "slots", "draining", "engine", "something newer"])
workers = st.builds(worker, reason=reasons, state=states, slots=st.integers(0, 9), running=st.integers(0, 9))


@given(st.lists(workers), st.integers(0, 10**6), st.none() | st.floats(0, 1e6), st.none() | st.floats(0, 1e10))
def test_whatever_workers_say_there_is_an_answer(
    said: list[dict[str, Any]], position: int, run_seconds: float | None, delayed_until: float | None
) -> None:
    waiting = wait(*said, position=position, run_seconds=run_seconds, delayed_until=delayed_until)
    assert find_reason(waiting) in EXPLANATIONS
    estimate = estimate_wait_seconds(waiting, now=1e9)
    assert estimate is None or estimate >= 0
