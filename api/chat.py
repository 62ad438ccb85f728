"""OpenAI's chat completions: a job for each, whose client waits for its text, or reads it as it is made."""

from __future__ import annotations

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
from api.chat_answer import (
    ChatCompletion,
    Chunks,
    ErrorBody,
    describe_completion,
    describe_error,
    explain_end,
    status_of,
)
from api.chat_request import ChatRequest, parse_chat
from api.front import Front, front_of
from api.header import read_idempotency_key
from api.openapi import CHAT, CHAT_ANSWER, CHAT_ERROR
from api.place import Place
from api.problem import ProblemError, problem_of, retry_after_seconds
from api.sse import IDLE_SECONDS, PING_SECONDS, SEND_SECONDS, forgotten
from api.wait import accept_and_wait
from nowserving import verb
from nowserving.errors import JobFinishedError, JobNotFoundError, NowservingError
from nowserving.events import Watch
from nowserving.job import Job, Status

log = logging.getLogger(__name__)

SPARE_SECONDS = 60.0
"""How much longer than start_within_seconds + timeout_seconds a job may take: a dead worker's lease runs out first."""

router = APIRouter(prefix="/v1/chat", tags=["chat"])


@router.post(
    "/completions",
    name="complete",
    response_model=ChatCompletion,
    responses={200: CHAT_ANSWER, "default": {"model": ErrorBody, **CHAT_ERROR}},
    openapi_extra=CHAT,
)
async def complete(request: Request) -> Response:
    """Accept a job and answer with its text; with `stream` as it is made. A client that leaves before the end cancels
    its job, unless it has sent an `Idempotency-Key`, by which it can come back.
    """
    front = front_of(request)
    try:
        key = read_idempotency_key(request.headers)
        chat = parse_chat(await read_body(request, front.settings.max_body_bytes))
        entry = await make_entry(front, request.headers, chat.to_submission(), key, chat.limit_name)
        await front.pulse.ensure()
        seconds = chat.start_within_seconds + chat.timeout_seconds + SPARE_SECONDS
        if chat.stream:
            return await _stream(front, entry, chat, seconds)
        return await _wait(front, request, entry, seconds)
    except ClientDisconnect:
        raise
    except Exception as error:
        return _answer_error(problem_of(error))


async def _wait(front: Front, request: Request, entry: Entry, seconds: float) -> Response:
    ended = False
    try:
        job = (await accept_and_wait(front, request, entry, seconds)).look.job
        ended = job.status.terminal
    except ProblemError:
        ended = True  # refused: there is none
        raise
    finally:  # the client has left, this process stops, or Redis is away: nobody gets the text
        if not ended:
            await _leave(front, entry)
    if not ended:
        late = ProblemError("timeout", f"{job.id} has not ended within {seconds:g} s", retryable=False)
        return _answer_error(late, _headers(entry, job))
    if job.status is not Status.SUCCEEDED:
        return _answer_error(explain_end(job.status, job.error), _headers(entry, job))
    return answer_json(describe_completion(job), headers=_headers(entry, job))


async def _stream(front: Front, entry: Entry, chat: ChatRequest, seconds: float) -> Response:
    watch = front.hub.watch(entry.job_id)
    try:
        job = (await accept(front, entry)).look.job
        if job.id != entry.job_id:
            watch = front.hub.watch(job.id)
    except ProblemError:
        raise  # refused: there is none
    except BaseException:
        await _leave(front, entry)
        raise
    chunks = Chunks(job, chat.stream_options.include_usage)
    return _ChatStream(front, entry, watch, chunks, _headers(entry, job), seconds)


class _ChatStream(EventSourceResponse):
    """A job's text for one client, which cancels the job if it leaves before the end. A server that stops lets it go on
    for `seconds`, or till its own patience ends (uvicorn's --timeout-graceful-shutdown).
    """

    def __init__(
        self, front: Front, entry: Entry, watch: Watch, chunks: Chunks, headers: Mapping[str, str], seconds: float
    ) -> None:
        super().__init__(
            self._read(),
            headers=headers,
            ping=PING_SECONDS,
            sep="\n",
            send_timeout=SEND_SECONDS,
            shutdown_grace_period=seconds,
        )
        self._front, self._entry, self._watch, self._chunks = front, entry, watch, chunks
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._ended:
                await _leave(self._front, self._entry)

    async def _read(self) -> AsyncIterator[ServerSentEvent]:
        yield _write(self._chunks.first())
        with self._watch:
            try:
                async for event in self._follow():
                    yield event
            except Exception as error:
                yield _write(describe_error(problem_of(error)))
        yield ServerSentEvent("[DONE]", sep="\n")

    async def _follow(self) -> AsyncIterator[ServerSentEvent]:
        """The text to the job's end. Raises ProblemError if that is no success."""
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
                self._ended = event.terminal
                if event.type == Status.SUCCEEDED:
                    for chunk in self._chunks.last(event.data["output"]):
                        yield _write(chunk)
                    return
                if event.terminal:
                    raise explain_end(Status(event.type), event.data.get("error"))
            if not events and await forgotten(self._front, self._watch.job_id):
                raise JobNotFoundError(f"{self._watch.job_id} is not kept any more")


async def _leave(front: Front, entry: Entry) -> None:
    """Cancel what nobody waits for any more; who has a key may come back for it."""
    if entry.idempotency_key:
        return
    try:
        await front.store.run(verb.cancel(entry.job_id))
    except (JobFinishedError, JobNotFoundError):
        pass  # it has just ended, or was never queued
    except NowservingError as error:
        log.warning("%s, whose client has left, could not be canceled: %s", entry.job_id, error.message)


def _headers(entry: Entry, job: Job) -> dict[str, str]:
    headers = {"Location": f"/v1/jobs/{job.id}", "X-Request-Id": job.id}
    return headers if job.id == entry.job_id else {**headers, "Idempotency-Replayed": "true"}


def _answer_error(problem: ProblemError, headers: Mapping[str, str] | None = None) -> Response:
    status, sent = status_of(problem), dict(headers or {})
    if seconds := retry_after_seconds(problem, status):
        sent["Retry-After"] = str(seconds)
    if problem.retryable is not None:
        # OpenAI's clients go by it where it is there, else by the status (_should_retry in openai/_base_client.py).
        sent["X-Should-Retry"] = json.dumps(problem.retryable)
    return answer_json(describe_error(problem), status, sent)


def _write(data: object) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), sep="\n")
