"""A job's events as they happen (SSE): each once and in order, also over a lost connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.front import Front, front_of
from api.header import id_before, precedes, read_last_event_id
from api.jobs import check_job_id
from api.openapi import EVENTS, RESUMED
from api.place import Place
from api.problem import ProblemError
from api.sse import IDLE_SECONDS, PING_SECONDS, SEND_SECONDS, forgotten
from nowserving import verb
from nowserving.answer import Look
from nowserving.event import Event
from nowserving.events import Watch
from nowserving.job import Job, rfc3339

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("/{job_id}/events", response_class=EventSourceResponse, responses=EVENTS, openapi_extra=RESUMED)
async def follow(request: Request, job_id: str) -> Response:
    """The job's events to its end; from the first, or after the one that `Last-Event-ID` names."""
    check_job_id(job_id)
    last = read_last_event_id(request.headers.get("last-event-id"))
    front = front_of(request)
    look = await front.store.run(verb.look(job_id))
    place = await _find(front, look.job, last) if last else Place()
    if place is None:
        # To a browser's EventSource this says: do not come back.
        return Response(status_code=204)
    # A reader pulls: what it has not read yet stays in Redis.
    watch = front.hub.watch(job_id)
    events = _stream(front, watch, look, place)
    return EventSourceResponse(events, ping=PING_SECONDS, sep="\n", send_timeout=SEND_SECONDS)


async def _find(front: Front, job: Job, last: Place | str) -> Place | None:
    """Where a reader goes on, or None after the last event. Raises ProblemError."""
    event_id = last if isinstance(last, str) else last.event_id
    rest = await _read(front, job.id, id_before(event_id))
    if rest and rest[0].id == event_id:
        if rest[0].terminal:
            return None
        if isinstance(last, Place):
            return last
        if place := await _recount(front, job, rest):
            return place
    elif rest and isinstance(last, Place) and job.status.terminal:
        # An event that has gone into the collapsed one, then; if it was of this job, it came after the first.
        first = await _read(front, job.id, "0")
        if first and precedes(first[0].id, event_id):
            return last
    raise ProblemError("unknown_event_id", f"Last-Event-ID: {job.id} has no event {event_id}")


async def _recount(front: Front, job: Job, rest: Sequence[Event]) -> Place | None:
    """The place after the first event of `rest`, counted from the story's beginning; None if that cannot be told."""
    found, place, first = rest[0], Place(), True
    while events := await _read(front, job.id, place.event_id):
        for event in events:
            place = place.after(event)
            if event.id == found.id:
                text = next((other for other in rest[1:] if other.type in ("token", "restarted")), None)
                begins = text is not None and text.data.get("index") == 0
                # Tokens that came before it may be in a collapsed event that comes after it.
                hidden = job.status.terminal and not first and event.type in ("queued", "started") and begins
                return None if hidden else place
            first = False
    return None


async def _read(front: Front, job_id: str, after: str) -> list[Event]:
    return (await front.store.run(verb.read_events({job_id: after})))[job_id]


async def _stream(front: Front, watch: Watch, look: Look, place: Place) -> AsyncIterator[ServerSentEvent]:
    with watch, front.lookout.view(watch, look.job.model) as view:
        if look.wait:
            yield _write("queued", view.begin(look.wait))
        while True:
            events = await watch.events(place.event_id, IDLE_SECONDS)
            for event in events:
                unseen, place = place.unseen(event), place.after(event)
                view.note(event)
                if unseen:
                    yield _write(event.type, {**unseen.data, "at": rfc3339(event.at)}, str(place))
                if event.terminal:
                    return
            if said := view.news():
                yield _write("queued", said)
            elif not events and await forgotten(front, watch.job_id):
                return


def _write(kind: str, data: Mapping[str, Any], event_id: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), event=kind, id=event_id, sep="\n")
