"""Waiting for a job's end, without asking again and again."""

from __future__ import annotations

import asyncio
import time

from fastapi import Request

from api.front import Front
from nowserving import verb
from nowserving.answer import Look
from nowserving.errors import StoreUnavailableError
from nowserving.events import Watch

PAUSE_SECONDS = 0.2


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
