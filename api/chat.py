"""OpenAI's chat completions: a job for each, whose client waits for its text, or reads it as it is made."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api.accept import Entry, accept, make_entry
from api.answer import answer_json
from api.body import read_body
from api.chat_answer import ChatCompletion, Chunks, describe_completion, describe_refusal, explain_end
from api.chat_request import parse_chat
from api.events import IDLE_SECONDS, PING_SECONDS, SEND_SECONDS
from api.front import Front, front_of
from api.header import read_idempotency_key
from api.openapi import CHAT, CHAT_ANSWERS
from api.place import Place
from api.problem import ProblemError, problem_of, retry_after_seconds
from api.wait import accept_and_wait
from nowserving import verb
from nowserving.errors import JobFinishedError, JobNotFoundError, NowservingError
from nowserving.events import Watch
from nowserving.job import Job, Status

log = logging.getLogger(__name__)

SPARE_SECONDS = 60.0
"""Beyond its start_within_seconds and timeout_seconds a job may take so long: other workers' leases run out first."""

router = APIRouter(prefix="/v1/chat", tags=["chat"])


@router.post("/completions", name="complete", response_model=ChatCompletion, responses=CHAT_ANSWERS, openapi_extra=CHAT)
async def complete(request: Request) -> Response:
    """Accept a job and answer with its text; with `stream` as it is made. A client that leaves before the end cancels
    its job, unless it has sent an `Idempotency-Key`, by which it can come back.
    """
    try:
        return await _complete(request)
    except ClientDisconnect:
        return Response(status_code=400)
    except (NowservingError, ProblemError) as error:
        return _refuse(problem_of(error))


async def _complete(request: Request) -> Response:
    front = front_of(request)
    key = read_idempotency_key(request.headers.get("idempotency-key"))
    chat = parse_chat(await read_body(request, front.settings.max_body_bytes))
    entry = await make_entry(front, request.headers, chat.to_submission(), key)
    seconds = chat.start_within_seconds + chat.timeout_seconds + SPARE_SECONDS
    await front.pulse.ensure()
    if chat.stream:
        watch = front.hub.watch(entry.job_id)
        job = (await accept(front, entry)).look.job
        if job.id != entry.job_id:
            watch = front.hub.watch(job.id)
        chunks = _Stream(front, entry, watch, Chunks(job, chat.stream_options.include_usage))
        return _ChatResponse(chunks, _headers(job), seconds)

    try:
        job = (await accept_and_wait(front, request, entry, seconds)).look.job
    except asyncio.CancelledError:  # this process stops
        await _leave(front, entry)
        raise
    if not job.status.terminal:
        await _leave(front, entry)
        return _refuse(ProblemError("timeout", f"{job.id} has not ended within {seconds:g} s", retryable=False), job)
    if job.status is not Status.SUCCEEDED:
        return _refuse(explain_end(job.status, job.error), job)
    return answer_json(describe_completion(job), headers=_headers(job))


class _Stream:
    """A job's text for one client."""

    def __init__(self, front: Front, entry: Entry, watch: Watch, chunks: Chunks) -> None:
        self._front, self._entry, self._watch, self._chunks = front, entry, watch, chunks
        self._ended = False

    async def read(self) -> AsyncIterator[ServerSentEvent]:
        """Chunks to the end, or to an error."""
        yield _write(self._chunks.first())
        with self._watch:
            try:
                async for event in self._follow():
                    yield event
            except (NowservingError, ProblemError) as error:
                yield _write(describe_refusal(problem_of(error))[1])
        self._ended = True
        yield ServerSentEvent("[DONE]", sep="\n")

    async def close(self) -> None:
        """Nobody reads any more."""
        if not self._ended:
            await _leave(self._front, self._entry)

    async def _follow(self) -> AsyncIterator[ServerSentEvent]:
        place, seen = Place(), False
        while True:
            events = await self._watch.events(place.event_id, IDLE_SECONDS)
            for event in events:
                unseen, place = place.unseen(event), place.after(event)
                if event.type == "restarted" and seen:
                    raise ProblemError("restarted", "the text has begun anew on another worker: ask once more")
                if unseen and event.type == "token" and (text := unseen.data["text"]):
                    seen = True
                    yield _write(self._chunks.text(text))
                if event.type == Status.SUCCEEDED:
                    for chunk in self._chunks.last(event.data["output"]):
                        yield _write(chunk)
                    return
                if event.terminal:
                    raise explain_end(event.type, event.data.get("error"))
            if not events:
                await self._front.store.run(verb.look(self._watch.job_id))  # raises if the job is forgotten


class _ChatResponse(EventSourceResponse):
    """Tells its stream when the client is gone. A server that stops lets it go on, for as long as it waits for any."""

    def __init__(self, stream: _Stream, headers: Mapping[str, str], seconds: float) -> None:
        super().__init__(
            stream.read(),
            headers=headers,
            ping=PING_SECONDS,
            sep="\n",
            send_timeout=SEND_SECONDS,
            shutdown_grace_period=seconds,
        )
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.close()


async def _leave(front: Front, entry: Entry) -> None:
    """Cancel what nobody waits for any more; who has a key may come back for it."""
    if entry.idempotency_key:
        return
    try:
        await front.store.run(verb.cancel(entry.job_id))
    except (JobFinishedError, JobNotFoundError):
        pass  # just now, or it was never queued
    except NowservingError as error:
        log.warning("%s, whose client has left, could not be canceled: %s", entry.job_id, error.message)


def _headers(job: Job) -> dict[str, str]:
    return {"Location": f"/v1/jobs/{job.id}", "X-Request-Id": job.id}


def _refuse(problem: ProblemError, job: Job | None = None) -> Response:
    status, body = describe_refusal(problem)
    headers = _headers(job) if job else {}
    if seconds := retry_after_seconds(problem, status):
        headers["Retry-After"] = str(seconds)
    if problem.retryable is not None:
        headers["X-Should-Retry"] = json.dumps(problem.retryable)  # OpenAI's clients would retry by the status
    return answer_json(body, status, headers)


def _write(data: object) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), sep="\n")
