"""Admission: may this job be accepted, and when should a client ask again. Pure: what the figures are is passed in."""

from __future__ import annotations

import math

from api.problem import field_problem
from nowserving.catalog import Catalog
from nowserving.job import Submission

LIMIT_NAME = "parameters.max_new_tokens"
SOONEST_SECONDS = 1
LATEST_SECONDS = 60
ROOM = 0.1
"""A refused client is asked to come back when so much of the queue has drained."""


def admit(submission: Submission, catalog: Catalog, limit_name: str = LIMIT_NAME) -> Submission:
    """The submission as it will be queued; `limit_name` is how the client spells max_new_tokens.

    Raises UnknownModelError, or ProblemError for what is over a limit.
    """
    limit = catalog[submission.model].max_new_tokens
    parameters = submission.parameters
    if parameters.max_new_tokens <= limit:
        return submission
    if "max_new_tokens" in parameters.model_fields_set:
        message = f"{parameters.max_new_tokens} is too many; {submission.model} allows 1 to {limit}"
        raise field_problem("invalid_input", limit_name, message)
    cut = parameters.model_copy(update={"max_new_tokens": limit})
    return submission.model_copy(update={"parameters": cut})


def retry_when_full_seconds(depth: int, run_seconds: float | None, slots: int) -> int:
    """Retry-After of a refusal: when a full queue will have room again, as far as one can know."""
    if run_seconds is None or slots < 1:
        return LATEST_SECONDS if slots < 1 else SOONEST_SECONDS
    return _whole_seconds(depth * ROOM * run_seconds / slots)


def retry_when_accepted_seconds(estimated_wait_seconds: float | None) -> int:
    """Retry-After of an accepted job: when a look is worth while."""
    return _whole_seconds(estimated_wait_seconds or 0)


def _whole_seconds(seconds: float) -> int:
    return min(LATEST_SECONDS, max(SOONEST_SECONDS, math.ceil(seconds)))
