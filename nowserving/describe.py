"""A job as it is shown: what GET answers and what a webhook says. Pure."""

from __future__ import annotations

from typing import cast

from nowserving import schema
from nowserving.job import Job, rfc3339


def describe_urls(job_id: str) -> schema.Urls:
    """Where to go on from here."""
    path = f"/v1/jobs/{job_id}"
    return {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}


def describe_job(job: Job, queue: schema.QueuePosition | None = None) -> schema.Job:
    """A job as JSON; `queue` is what it waits for, if it waits."""
    return {
        "id": job.id,
        "model": job.model,
        "status": job.status,
        "lane": job.lane,
        "attempt": job.attempt,
        "created_at": rfc3339(job.created_at),
        "started_at": rfc3339(job.started_at),
        "finished_at": rfc3339(job.finished_at),
        "queue": queue,
        "output": cast(schema.Output | None, job.output),
        "error": cast(schema.JobError | None, job.error),
        "parameters": job.parameters.model_dump(),
        "start_within_seconds": job.start_within_seconds,
        "timeout_seconds": job.timeout_seconds,
        "retain_seconds": job.retain_seconds,
        "metadata": job.metadata,
        "retry_of": job.retry_of,
        "urls": describe_urls(job.id),
    }
