"""Queues: how each model's stands."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter, Request, Response

from api.answer import answer_json
from api.front import front_of
from api.schema import Queue, QueueList
from nowserving import verb

router = APIRouter(prefix="/v1/queues", tags=["queues"])


@router.get("", name="list", response_model=QueueList)
async def index(request: Request) -> Response:
    """Each model's queue: how many jobs wait, by lane; `delayed` ones wait for their next try.

    `dead` counts what stood in the model's keys and is no job; `mended`, of all models, what had to be put right.
    """
    front = front_of(request)
    models = tuple(front.catalog)
    queues = await front.store.run(verb.queues(models))
    workers = Counter(worker["model"] for worker in await front.store.run(verb.workers(models)))
    data: list[Queue] = [
        {
            "model": queue.model,
            "depth": queue.depth,
            "normal": queue.normal,
            "batch": queue.batch,
            "delayed": queue.delayed,
            "running": queue.running,
            "workers": workers[queue.model],
            "busy": queue.busy,
            "blocked": queue.blocked,
            "dead": queue.dead,
            "oldest_wait_seconds": queue.oldest_wait_seconds,
            "run_seconds": queue.run_seconds,
        }
        for queue in queues
    ]
    mended = await front.store.run(verb.mended())
    return answer_json({"data": data, "mended": mended})
