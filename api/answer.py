"""A job as it is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from api.outlook import EXPLANATIONS, estimate_wait_seconds, find_reason
from nowserving.answer import Look, Wait
from nowserving.job import Job, rfc3339


def describe_urls(job_id: str) -> dict[str, str]:
    """Where to go on from here."""
    path = f"/v1/jobs/{job_id}"
    return {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}


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


def describe_job(job: Job, wait: Wait | None = None) -> dict[str, Any]:
    """A job as JSON."""
    return {
        "id": job.id,
        "model": job.model,
        "status": job.status.value,
        "lane": job.lane.value,
        "attempt": job.attempt,
        "created_at": rfc3339(job.created_at),
        "started_at": rfc3339(job.started_at),
        "finished_at": rfc3339(job.finished_at),
        "queue": describe_wait(wait) if wait else None,
        "output": job.output,
        "error": job.error,
        "parameters": job.parameters.model_dump(),
        "start_within_seconds": job.start_within_seconds,
        "timeout_seconds": job.timeout_seconds,
        "retain_seconds": job.retain_seconds,
        "metadata": job.metadata,
        "retry_of": job.retry_of,
        "urls": describe_urls(job.id),
    }


def answer_look(look: Look, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A job as an HTTP answer."""
    return answer_json(describe_job(look.job, look.wait), status, headers)


def answer_json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON as an HTTP answer."""
    return Response(json.dumps(body, separators=(",", ":")), status, headers, "application/json")
