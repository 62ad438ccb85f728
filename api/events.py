"""A job's events as they happen (SSE): each once and in order, also over a lost connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.answer import describe_wait
from api.front import Front, front_of
from api.header import id_before, read_last_event_id
from api.jobs import check_job_id
from api.problem import ProblemError
from nowserving import verb
from nowserving.answer import Wait
from nowserving.errors import JobNotFoundError, NowservingError
from nowserving.event import Event
from nowserving.events import Watch
from nowserving.job import rfc3339

PING_SECONDS = 15
IDLE_SECONDS = 30.0
"""After so long without an event one looks whether the job is still there."""
SEND_SECONDS = 60.0
"""A reader that takes in nothing for so long is let go; it can resume."""

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def follow(request: Request, job_id: str) -> Response:
    """The job's events to its end; from the first, or after the one that `Last-Event-ID` names."""
    check_job_id(job_id)
    after = read_last_event_id(request.headers.get("last-event-id"))
    front = front_of(request)
    look = await front.store.run(verb.look(job_id))
    if after and (await _find(front, job_id, after)).terminal:
        # To a browser's EventSource this says: do not come back.
        return Response(status_code=204)
    # A reader pulls: what it has not read yet stays in Redis.
    watch = front.hub.watch(job_id)
    events = _stream(front, watch, look.wait, after or "0")
    return EventSourceResponse(events, ping=PING_SECONDS, sep="\n", send_timeout=SEND_SECONDS)


async def _find(front: Front, job_id: str, event_id: str) -> Event:
    """The event of that id. Raises ProblemError."""
    read = await front.store.run(verb.read_events({job_id: id_before(event_id)}))
    for event in read[job_id][:1]:
        if event.id == event_id:
            return event
    raise ProblemError("unknown_event_id", f"Last-Event-ID: {job_id} has no event {event_id}")


async def _stream(front: Front, watch: Watch, wait: Wait | None, after: str) -> AsyncIterator[ServerSentEvent]:
    with watch:
        if wait:
            yield _write("queued", describe_wait(wait))
        while True:
            events = await watch.events(after, IDLE_SECONDS)
            for event in events:
                yield _write(event.type, {**event.data, "at": rfc3339(event.at)}, event.id)
                if event.terminal:
                    return
                after = event.id
            if not events and await _forgotten(front, watch.job_id):
                return


async def _forgotten(front: Front, job_id: str) -> bool:
    try:
        await front.store.run(verb.look(job_id))
    except JobNotFoundError:
        return True
    except NowservingError:
        return False
    return False


def _write(kind: str, data: dict[str, Any], event_id: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), event=kind, id=event_id, sep="\n")
