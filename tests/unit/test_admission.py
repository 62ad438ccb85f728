"""Admission: what is accepted, and when a client is asked to come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.admission import LATEST_SECONDS, SOONEST_SECONDS, admit, retry_when_accepted_seconds, retry_when_full_seconds
from api.problem import ProblemError
from nowserving.catalog import parse_catalog
from nowserving.errors import UnknownModelError
from nowserving.job import Submission

CATALOG = parse_catalog({"models": {"m": {"engine": "noop", "max_new_tokens": 100}}}, "test")


def submission(model: str = "m", **parameters: object) -> Submission:
    body = {"model": model, "input": {"prompt": "hello"}, "parameters": parameters}
    return Submission.model_validate(body)


def test_a_job_within_the_limits_is_accepted_as_it_is() -> None:
    asked = submission(max_new_tokens=100)
    assert admit(asked, CATALOG) is asked


def test_a_default_is_cut_to_the_models_limit() -> None:
    assert admit(submission(), CATALOG).parameters.max_new_tokens == 100


def test_a_limit_asked_for_is_not_cut_but_refused() -> None:
    with pytest.raises(ProblemError, match="101 is too many; m allows 1 to 100") as caught:
        admit(submission(max_new_tokens=101), CATALOG)
    assert caught.value.errors[0]["field"] == "parameters.max_new_tokens"


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownModelError, match="there are: m"):
        admit(submission("nix"), CATALOG)


@pytest.mark.parametrize(
    ("depth", "run_seconds", "slots", "seconds"),
    [
        (100, 2.0, 4, 5),
        (100, 0.001, 4, SOONEST_SECONDS),
        (100_000, 60.0, 1, LATEST_SECONDS),
        (100, None, 4, SOONEST_SECONDS),
        (100, 2.0, 0, LATEST_SECONDS),
    ],
)
def test_a_refused_client_comes_again_when_there_is_room(
    depth: int, run_seconds: float | None, slots: int, seconds: int
) -> None:
    assert retry_when_full_seconds(depth, run_seconds, slots) == seconds


@given(st.none() | st.floats(0, allow_infinity=False))
def test_an_accepted_client_looks_again_within_bounds(estimated_wait_seconds: float | None) -> None:
    assert SOONEST_SECONDS <= retry_when_accepted_seconds(estimated_wait_seconds) <= LATEST_SECONDS
