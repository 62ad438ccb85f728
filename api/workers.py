"""Workers and deliverers: what each live one says of itself."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.answer import answer_json
from api.front import front_of
from api.schema import WorkerList
from nowserving import verb
from nowserving.delivery import WEBHOOKS

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.get("", name="list", response_model=WorkerList)
async def index(request: Request) -> Response:
    """The live workers: state, slots, running jobs, memory, and why the gate is closed if it is.

    Those of the model `@webhooks` are deliverers.
    """
    front = front_of(request)
    return answer_json({"data": await front.store.run(verb.workers((*front.catalog, WEBHOOKS)))})
