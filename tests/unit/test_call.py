"""What a worker says of itself is believed only where it can be."""

from __future__ import annotations

import json

import pytest

from nowserving.call import read_said

SAID = {"state": "ready", "slots": 2, "running": 1, "gate": {"open": False, "reason": "slots"}, "later": [1]}


def test_what_a_worker_says_is_read_also_by_an_older_version() -> None:
    assert read_said(json.dumps(SAID)) == SAID
    assert read_said('{"state": "loading"}') == {"state": "loading"}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[1]",
        "7",
        "{",
        *(json.dumps(SAID | {"gate": gate}) for gate in ("open", [1], {"open": False, "reason": ["a"]})),
    ],
)
def test_what_no_worker_says_is_nothing(said: str) -> None:
    assert read_said(said) == {}


@pytest.mark.parametrize("name", ["slots", "running"])
def test_numbers_that_are_none_are_nothing(name: str) -> None:
    assert read_said(json.dumps(SAID | {name: "x"})) == {}
