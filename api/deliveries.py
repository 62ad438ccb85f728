"""Deliveries: what became of each webhook, attempt by attempt, and once more the ones that came to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.answer import answer_json
from api.front import front_of
from api.jobs import Cursor, check_job_id
from api.problem import ProblemError
from api.schema import DeliveryList, DeliveryPage
from nowserving import letter, schema, verb
from nowserving.delivery import WEBHOOKS, Delivery, DeliveryStatus, is_delivery_id
from nowserving.describe_delivery import describe_delivery
from nowserving.store import AsyncStore

router = APIRouter(tags=["deliveries"])


@router.get("/v1/jobs/{job_id}/deliveries", name="list_of_job", response_model=DeliveryList)
async def index_of_job(request: Request, job_id: str) -> Response:
    """What became of a job's webhooks; they may be kept longer than the job."""
    check_job_id(job_id)
    store = front_of(request).store
    deliveries = await store.run(letter.deliveries_of(job_id))
    if not deliveries:
        await store.run(verb.look(job_id))
    return answer_json({"data": await _describe(store, deliveries)})


@router.get("/v1/deliveries", name="list", response_model=DeliveryPage)
async def index(
    request: Request,
    status: Annotated[DeliveryStatus | None, Query(description="Only deliveries of this status.")] = None,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Kept deliveries of all jobs, newest first. A page may be short and still have a next one."""
    store = front_of(request).store
    deliveries, next_cursor = await store.run(letter.list_deliveries(before=cursor, limit=limit, status=status))
    cursor_text = None if next_cursor is None else str(next_cursor)
    return answer_json({"data": await _describe(store, deliveries), "next_cursor": cursor_text})


@router.post("/v1/deliveries/{delivery_id}/redeliver", status_code=202, response_model=schema.Delivery)
async def redeliver(request: Request, delivery_id: str) -> Response:
    """Send it once more, with the same id and all its attempts before it; while it is being sent this does nothing."""
    if not is_delivery_id(delivery_id):
        raise ProblemError("invalid_delivery_id", "a delivery id is dlv_, 26 characters, and _ with the event's name")
    store = front_of(request).store
    served = await _served(store)  # first: once it is redelivered nothing may fail, else it would be asked for again
    return answer_json(describe_delivery(await store.run(letter.redeliver(delivery_id)), served), 202)


async def _describe(store: AsyncStore, deliveries: Sequence[Delivery]) -> list[schema.Delivery]:
    pending = any(delivery.status is DeliveryStatus.PENDING for delivery in deliveries)
    served = pending and await _served(store)
    return [describe_delivery(delivery, served) for delivery in deliveries]


async def _served(store: AsyncStore) -> bool:
    """Whether a deliverer lives that takes deliveries."""
    said = await store.run(verb.workers([WEBHOOKS]))
    return any((deliverer.get("gate") or {}).get("reason") != "draining" for deliverer in said)
