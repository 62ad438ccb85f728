"""Deliveries: what became of each webhook, attempt by attempt, and once more the ones that came to nothing."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.answer import answer_json
from api.front import front_of
from api.jobs import MAX_SEQUENCE, check_job_id
from api.problem import ProblemError
from nowserving import letter, verb
from nowserving.delivery import DeliveryStatus, is_delivery_id
from nowserving.describe_delivery import describe_delivery

router = APIRouter(tags=["webhooks"])


@router.get("/v1/jobs/{job_id}/deliveries")
async def index_of_job(request: Request, job_id: str) -> Response:
    """What became of a job's webhooks; they may be kept longer than the job."""
    check_job_id(job_id)
    store = front_of(request).store
    deliveries = await store.run(letter.deliveries_of(job_id))
    if not deliveries:
        await store.run(verb.look(job_id))
    return answer_json({"data": [describe_delivery(delivery) for delivery in deliveries]})


@router.get("/v1/deliveries")
async def index(
    request: Request,
    status: Annotated[DeliveryStatus | None, Query(description="Only deliveries of this status.")] = None,
    cursor: Annotated[int | None, Query(ge=0, le=MAX_SEQUENCE, description="next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Kept deliveries of all jobs, newest first. A page may be short and still have a next one."""
    call = letter.list_deliveries(before=cursor, limit=limit, status=status)
    deliveries, next_cursor = await front_of(request).store.run(call)
    cursor_text = None if next_cursor is None else str(next_cursor)
    data = [describe_delivery(delivery) for delivery in deliveries]
    return answer_json({"data": data, "next_cursor": cursor_text})


@router.post("/v1/deliveries/{delivery_id}/redeliver", status_code=202)
async def redeliver(request: Request, delivery_id: str) -> Response:
    """Send it once more, with the same id and all its attempts before it; while it is being sent this does nothing."""
    if not is_delivery_id(delivery_id):
        raise ProblemError("invalid_delivery_id", "a delivery id is dlv_, 26 characters, and _ with the event's name")
    delivery = await front_of(request).store.run(letter.redeliver(delivery_id))
    return answer_json(describe_delivery(delivery), 202)
