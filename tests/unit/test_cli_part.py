from __future__ import annotations

from nowserving.cli.part import (
    EX_CONFIG,
    EX_TEMPFAIL,
    FIRST_LONG_PAUSE_SECONDS,
    LONGEST_LONG_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Restarts,
)
from nowserving.cli.process import describe_exit


def test_pauses_double_up_to_the_longest() -> None:
    restarts = Restarts(ready=True)
    pauses = [restarts.note_death(1, lived_seconds=0) for _ in range(9)]
    assert pauses[:4] == [0.5, 1, 2, 4]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_a_calm_life_forgives_earlier_deaths() -> None:
    restarts = Restarts(ready=True, deaths=6)
    assert restarts.note_death(1, lived_seconds=60) == 0.5


def test_what_was_never_ready_is_given_up_at_its_third_death() -> None:
    restarts = Restarts()
    assert [restarts.note_death(1, lived_seconds=1) for _ in range(3)] == [0.5, 1, None]


def test_what_was_ready_once_is_never_given_up() -> None:
    restarts = Restarts(ready=True)
    assert None not in [restarts.note_death(-9, lived_seconds=1) for _ in range(50)]


def test_a_wrong_configuration_is_given_up_at_once() -> None:
    assert Restarts(ready=True).note_death(EX_CONFIG, lived_seconds=1000) is None


def test_what_may_pass_is_tried_again_slowly_and_for_ever() -> None:
    restarts = Restarts()
    pauses = [restarts.note_death(EX_TEMPFAIL, lived_seconds=40) for _ in range(9)]
    assert pauses[:3] == [FIRST_LONG_PAUSE_SECONDS, 2 * FIRST_LONG_PAUSE_SECONDS, 4 * FIRST_LONG_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_LONG_PAUSE_SECONDS
    # It counts for no stillbirth, and a death in between begins it anew.
    assert [restarts.note_death(1, lived_seconds=1) for _ in range(2)] == [0.5, 1]
    assert restarts.note_death(EX_TEMPFAIL, lived_seconds=40) == FIRST_LONG_PAUSE_SECONDS


def test_exits_are_said_in_words() -> None:
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-9) == "was ended by SIGKILL"
    assert describe_exit(-99) == "was ended by signal 99"
