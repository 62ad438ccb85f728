from __future__ import annotations

import logging

import pytest

from workers.loading import Loading


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[float]:
    return []


@pytest.fixture
def loading(clock: Clock, told: list[float]) -> Loading:
    return Loading(lambda: told.append(clock.now), clock)


def test_each_phase_has_its_seconds_also_in_parts(loading: Loading, clock: Clock) -> None:
    for phase, seconds in [("import", 1.5), ("", 10), ("load", 2), ("import", 0.6), ("load", 1), ("warm-up", 0.4)]:
        loading.note(phase)
        clock.now += seconds
    loading.note("")
    assert loading.seconds == {"import": 2.1, "load": 3.0, "warm-up": 0.4}
    assert str(loading) == "import 2.1 s, load 3.0 s, warm-up 0.4 s"
    assert loading.detail == ""


def test_the_detail_says_what_is_done_and_how_far_it_is(loading: Loading) -> None:
    for phase, fraction, detail in [
        ("import", None, "importing"),
        ("download", 0.999, "downloading 99%"),
        ("load", 0.0, "loading 0%"),
        ("load", 0.434, "loading 43%"),
        ("load", 1.0, "loading 100%"),
        ("warm-up", None, "warming up"),
        ("compiling kernels", 0.5, "compiling kernels 50%"),
        ("", None, ""),
    ]:
        loading.note(phase, fraction)
        assert loading.detail == detail


def test_others_are_told_of_each_phase_and_then_now_and_then(loading: Loading, clock: Clock, told: list[float]) -> None:
    for step in range(1000):
        loading.note("load", step / 1000)
        clock.now += 0.01
    assert 15 <= len(told) <= 21
    before = len(told)
    loading.note("warm-up")
    assert len(told) == before + 1


@pytest.mark.parametrize(("seconds", "lines"), [(0.5, 0), (10, 4), (100, 9), (1000, 67)])
def test_the_log_is_told_in_sensible_steps(
    loading: Loading, clock: Clock, caplog: pytest.LogCaptureFixture, seconds: float, lines: int
) -> None:
    caplog.set_level(logging.INFO)
    loading.note("load", 0.0)
    for step in range(1, 10_001):
        clock.now += seconds / 10_000
        loading.note("load", step / 10_000)
    said = [record.getMessage() for record in caplog.records]
    assert abs(len(said) - lines) <= 1
    assert all(line.startswith("loading ") and line.endswith("%") for line in said)
