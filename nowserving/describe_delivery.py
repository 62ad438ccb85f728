"""A delivery as it is shown. Pure; nothing here has ever a secret in it."""

from __future__ import annotations

from nowserving import schema
from nowserving.delivery import Delivery, DeliveryStatus
from nowserving.job import Job, rfc3339


def describe_webhook(job: Job) -> schema.JobWebhook | None:
    """The receiver that the job itself named, if it did."""
    own = next((receiver for receiver in job.receivers if receiver.name is None), None)
    return {"url": own.url, "events": list(own.events)} if own else None


def summarize_delivery(delivery: Delivery) -> schema.DeliverySummary:
    """How it stands, in a job's answer."""
    return {
        "id": delivery.id,
        "event": delivery.event,
        "receiver": delivery.receiver,
        "url": delivery.url,
        "status": delivery.status,
        "attempt_count": delivery.tries,
        "next_attempt_at": rfc3339(delivery.next_attempt_at),
    }


def _why_pending(delivery: Delivery, served: bool) -> schema.PendingReason | None:
    """Why a pending one is not being sent; None for any other."""
    if delivery.status is not DeliveryStatus.PENDING:
        return None
    if delivery.next_attempt_at is not None:
        return "retry_backoff"
    return "behind" if served else "no_deliverer"


def describe_delivery(delivery: Delivery, served: bool) -> schema.Delivery:
    """All of it; `attempt_count` counts from its birth or its redelivery, `attempts` are the last 20 ever made.

    `served`: whether a deliverer lives.
    """
    return {
        **summarize_delivery(delivery),
        "reason": _why_pending(delivery, served),
        "job": delivery.job_id,
        "created_at": rfc3339(delivery.created_at),
        "finished_at": rfc3339(delivery.finished_at),
        "attempts": [
            {
                "at": rfc3339(attempt.at),
                "status": attempt.status,
                "latency_seconds": attempt.seconds,
                "error": attempt.error,
                "answer": attempt.answer,
            }
            for attempt in delivery.attempts
        ],
    }
