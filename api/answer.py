"""A job as it is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from fastapi import Response

from api.outlook import EXPLANATIONS, estimate_wait_seconds, find_reason
from nowserving import schema
from nowserving.answer import Look, Wait
from nowserving.describe import describe_job
from nowserving.describe_delivery import describe_webhook, summarize_delivery
from nowserving.job import Job


def describe_wait(wait: Wait) -> schema.QueuePosition:
    """What a queued job waits for. `position` is the number of jobs before it."""
    reason = find_reason(wait)
    return {
        "depth": wait.depth,
        "position": wait.position,
        "estimated_wait_seconds": estimate_wait_seconds(wait, time.time()),
        "reason": reason,
        "explanation": EXPLANATIONS[reason],
    }


def describe(job: Job, queue: schema.QueuePosition | None = None) -> schema.Job:
    """A job as JSON, with the receiver that it named."""
    return {**describe_job(job, queue), "webhook": describe_webhook(job)}


def describe_look(look: Look) -> schema.Job:
    """A job as JSON, what it waits for, and what its receivers, if it has any, were told."""
    body = describe(look.job, describe_wait(look.wait) if look.wait else None)
    if look.job.receivers:
        body["deliveries"] = [summarize_delivery(delivery) for delivery in look.deliveries]
    return body


def answer_look(look: Look, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A job as an HTTP answer."""
    return answer_json(describe_look(look), status, headers)


def answer_json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON as an HTTP answer."""
    return Response(json.dumps(body, separators=(",", ":")), status, headers, "application/json")
