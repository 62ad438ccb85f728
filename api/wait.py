"""Waiting for a job's end, without asking again and again."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext

from fastapi import Request

from api.accept import Accepted, Entry, accept
from api.front import Front
from nowserving import verb
from nowserving.answer import Look
from nowserving.errors import StoreUnavailableError
from nowserving.events import Watch

CONFIRM_SECONDS = 0.1
PAUSE_SECONDS = 0.2


async def accept_and_wait(front: Front, request: Request, entry: Entry, seconds: float) -> Accepted:
    """Queue the job, or find the one its key made before, and wait for its end, as `wait_for_end` does, for so long.

    Raises TooManyWaitersError before anything is queued, and what `accept` raises.
    """
    with front.hub.watch(entry.job_id, end_only=True) as watch:
        # Once this is confirmed the job's end gives a hint, so that nobody need look before.
        await watch.hinted(CONFIRM_SECONDS)
        accepted = await accept(front, entry)
        job = accepted.look.job
        if job.status.terminal:
            return accepted
        earlier = job.id != entry.job_id
        with front.hub.watch(job.id, end_only=True) if earlier else nullcontext(watch) as watch:
            try:
                return Accepted(await wait_for_end(front, request, watch, seconds), accepted.confirmed)
            except StoreUnavailableError:
                return accepted  # it is, whatever became of it since


async def wait_for_end(front: Front, request: Request, watch: Watch, seconds: float) -> Look:
    """The job when it has ended, or when the time is up or the client is gone. `watch` has been entered."""
    until = time.monotonic() + seconds
    gone = asyncio.create_task(_watch_client(request, watch))
    try:
        while True:
            left_seconds = until - time.monotonic()
            if left_seconds > 0:
                await watch.hinted(left_seconds)
            try:
                look = await front.store.run(verb.look(watch.job_id))
            except StoreUnavailableError:
                if time.monotonic() >= until or gone.done():
                    raise
                # This hint may have been the last.
                await asyncio.sleep(PAUSE_SECONDS)
                watch.hint()
                continue
            if look.job.status.terminal or time.monotonic() >= until or gone.done():
                return look
    finally:
        gone.cancel()


async def _watch_client(request: Request, watch: Watch) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    watch.hint()
