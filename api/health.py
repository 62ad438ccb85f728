"""Health: whether this process serves. Redis's state is told, and is no reason to kill an API process."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.answer import answer_json
from api.front import front_of
from api.schema import Health, Liveness
from nowserving import __version__

router = APIRouter(prefix="/health", tags=["health"])


@router.get("", name="get", response_model=Health)
async def look(request: Request) -> Response:
    """Always 200; `redis` is `ok`, `unavailable`, or `unsuitable: …`, as of a second ago."""
    return answer_json({"status": "ok", "redis": front_of(request).pulse.state, "version": __version__})


@router.get("/live", response_model=Liveness)
async def live() -> Response:
    """Always 200."""
    return answer_json({"status": "ok"})
