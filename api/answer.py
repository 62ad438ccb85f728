"""A job as it is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from api.outlook import EXPLANATIONS, estimate_wait_seconds, find_reason
from nowserving.answer import Look, Wait
from nowserving.describe import describe_job


def describe_wait(wait: Wait) -> dict[str, Any]:
    """What a queued job waits for. `position` is the number of jobs before it."""
    reason = find_reason(wait)
    return {
        "depth": wait.depth,
        "position": wait.position,
        "estimated_wait_seconds": estimate_wait_seconds(wait, time.time()),
        "reason": reason,
        "explanation": EXPLANATIONS[reason],
    }


def describe_look(look: Look) -> dict[str, Any]:
    """A job as JSON, and what it waits for."""
    return describe_job(look.job, describe_wait(look.wait) if look.wait else None)


def answer_look(look: Look, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A job as an HTTP answer."""
    return answer_json(describe_look(look), status, headers)


def answer_json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON as an HTTP answer."""
    return Response(json.dumps(body, separators=(",", ":")), status, headers, "application/json")
