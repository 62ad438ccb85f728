"""Failures in words, also of errors that have none."""

from __future__ import annotations

import pytest

from nowserving.errors import EngineError, InvalidInputError
from workers.engines.failure import error_of, first_line


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  one\ntwo"), "one"),
        (ValueError(""), "ValueError"),
        (MuteError(), "MuteError"),
        (KeyError("a"), "'a'"),
    ],
)
def test_an_error_is_said_in_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_our_own_errors_stay_and_others_are_the_engines() -> None:
    own = InvalidInputError("no")
    assert error_of(own) is own
    made = error_of(MuteError())
    assert type(made) is EngineError
    assert made.__cause__ is None
    assert made.message == "the engine failed on this job: MuteError: MuteError"
