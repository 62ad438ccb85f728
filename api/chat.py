"""OpenAI's chat completions: a job for each, whose client waits for its text, or reads it as it is made."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

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
    chat_status_of,
    describe_completion,
    describe_error,
    explain_end,
)
from api.chat_request import ChatRequest, parse_chat
from api.front import Front, front_of
from api.header import read_idempotency_key
from api.openapi import CHAT, CHAT_ANSWER, CHAT_ERROR
from api.place import Place
from api.problem import ProblemError, problem_of, retry_after_seconds
from api.sse import IDLE_SECONDS, PING_SECONDS, SEND_SECONDS, forgotten
from api.wait import accept_and_wait
from nowserving.errors import JobNotFoundError, NowservingError
from nowserving.event import Event
from nowserving.events import Watch
from nowserving.job import Job, Status

HOLD_SECONDS = 1.0
"""A stream's first byte is held back so long, since a job that is refused by then has a status of its own."""
SPARE_SECONDS = 60.0
"""How much longer than start_within_seconds + timeout_seconds a job may take: a dead worker's lease runs out first."""

MOST_SECONDS = 3600.0
"""No request for a whole text is kept open longer, and no server that stops waits longer for a stream."""

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
        seconds = min(chat.start_within_seconds + chat.timeout_seconds + SPARE_SECONDS, MOST_SECONDS)
        if chat.stream:
            return await _stream(front, entry, chat, seconds)
        return await _wait(front, request, entry, seconds)
    except ClientDisconnect:
        raise
    except asyncio.CancelledError:
        return _answer_error(ProblemError("stopping", "this server stops: send it again", retryable=True))
    except Exception as error:
        return _answer_error(problem_of(error))


async def _wait(front: Front, request: Request, entry: Entry, seconds: float) -> Response:
    try:
        job = (await accept_and_wait(front, request, entry, seconds)).look.job
    except BaseException as error:
        if _may_be_queued(error):
            _leave(front, entry)
        raise
    if not job.status.terminal:  # the time is up, or the client is gone
        _leave(front, entry)
        again = bool(entry.idempotency_key)  # then it goes on
        late = ProblemError("timeout", f"{job.id} has not ended within {seconds:g} s", retryable=again)
        return _answer_error(late, _headers(entry, job))
    if job.status is not Status.SUCCEEDED:
        return _answer_error(explain_end(job.status, job.error), _headers(entry, job), entry)
    return answer_json(describe_completion(job), headers=_headers(entry, job))


async def _stream(front: Front, entry: Entry, chat: ChatRequest, seconds: float) -> Response:
    with ExitStack() as entered:
        watch = entered.enter_context(front.hub.watch(entry.job_id))
        try:
            job = (await accept(front, entry)).look.job
            if job.id != entry.job_id:
                entered.close()
                watch = entered.enter_context(front.hub.watch(job.id))
            refused = await _hold(watch, job)
        except BaseException as error:
            if _may_be_queued(error):
                _leave(front, entry)
            raise
        if refused:
            return _answer_error(refused, _headers(entry, job), entry)
        usage = chat.stream_options.include_usage
        return _ChatStream(front, entry, watch, job, usage, seconds, entered.pop_all())


async def _hold(watch: Watch, job: Job) -> ProblemError | None:
    """Wait a little for the job to start; why it did not, if it has ended instead."""
    if job.status.terminal:
        return None if job.status is Status.SUCCEEDED else explain_end(job.status, job.error)
    until, event_id = time.monotonic() + HOLD_SECONDS, "0"
    while (left_seconds := until - time.monotonic()) > 0:
        for event in await watch.events(event_id, left_seconds):
            event_id = event.id
            if event.terminal and event.type != Status.SUCCEEDED:
                return explain_end(Status(event.type), event.data.get("error"))
            if event.type != "queued":
                watch.hint()  # it is read once more
                return None
    return None


class _ChatStream(EventSourceResponse):
    """A job's text for one client, which cancels the job if it leaves before the end. A server that stops lets it go on
    for `seconds`, or till its own patience ends (uvicorn's --timeout-graceful-shutdown).
    """

    def __init__(
        self,
        front: Front,
        entry: Entry,
        watch: Watch,
        job: Job,
        usage: bool,
        seconds: float,
        entered: ExitStack,
    ) -> None:
        """`watch` has been entered; `entered` is closed with the stream."""
        super().__init__(
            self._read(),
            headers=_headers(entry, job),
            ping=PING_SECONDS,
            sep="\n",
            send_timeout=SEND_SECONDS,
            shutdown_grace_period=seconds,
        )
        self._front, self._entry, self._watch = front, entry, watch
        self._chunks = Chunks(job, usage)
        self._output = job.output if job.status is Status.SUCCEEDED else None
        self._entered = entered
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._entered.close()
            if not self._ended:
                _leave(self._front, self._entry)

    async def _read(self) -> AsyncIterator[ServerSentEvent]:
        yield _write(self._chunks.first())
        try:
            async for chunk in self._tell(self._output) if self._output else self._follow():
                yield chunk
        except Exception as error:
            yield _write(describe_error(problem_of(error)))
        yield ServerSentEvent("[DONE]", sep="\n")

    async def _tell(self, output: Mapping[str, Any]) -> AsyncIterator[ServerSentEvent]:
        """The text of a job that had succeeded before, under the same key."""
        self._ended = True
        for chunk in (self._chunks.text(output["text"]), *self._chunks.last(output)):
            yield _write(chunk)

    async def _follow(self) -> AsyncIterator[ServerSentEvent]:
        """The text to the job's end. Raises ProblemError if that is no success."""
        place, seen = Place(), False
        while True:
            events = await self._watch.events(place.event_id, IDLE_SECONDS)
            for event in events if seen else _from_last_beginning(events):
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


def _from_last_beginning(events: Sequence[Event]) -> Sequence[Event]:
    """Without the text that has begun anew since."""
    beginnings = [number for number, event in enumerate(events) if event.type == "restarted"]
    return events[beginnings[-1] :] if beginnings else events


def _may_be_queued(error: BaseException) -> bool:
    """Whether there may be a job though this was raised. Where Redis did not answer `accept` takes care of it."""
    return not isinstance(error, ProblemError | NowservingError)


def _leave(front: Front, entry: Entry) -> None:
    """Cancel what nobody waits for any more; who has a key may come back for it."""
    if not entry.idempotency_key:
        front.canceler.cancel(entry.job_id)


def _headers(entry: Entry, job: Job) -> dict[str, str]:
    headers = {"Location": f"/v1/jobs/{job.id}", "X-Request-Id": job.id}
    return headers if job.id == entry.job_id else {**headers, "Idempotency-Replayed": "true"}


def _answer_error(
    problem: ProblemError, headers: Mapping[str, str] | None = None, entry: Entry | None = None
) -> Response:
    """`entry` is that of the job which has ended so; under its key it would be the same once more."""
    status, sent = chat_status_of(problem), dict(headers or {})
    if seconds := retry_after_seconds(problem, status):
        sent["Retry-After"] = str(seconds)
    if problem.retryable is not None:
        # OpenAI's clients go by it where it is there, else by the status (_should_retry in openai/_base_client.py).
        again = problem.retryable and not (entry and entry.idempotency_key)
        sent["X-Should-Retry"] = json.dumps(again)
    return answer_json(describe_error(problem), status, sent)


def _write(data: object) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), sep="\n")
