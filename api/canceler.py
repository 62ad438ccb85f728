"""Cancels jobs for which nobody waits any more; while Redis is away it remembers them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from nowserving import verb
from nowserving.errors import JobFinishedError, JobNotFoundError, NowservingError
from nowserving.events import end_tasks
from nowserving.store import AsyncStore

log = logging.getLogger(__name__)

MOST_JOBS = 10_000
"""Remembered at once; the oldest are given up for newer ones."""
JOBS_AT_ONCE = 64
PAUSE_SECONDS = 0.5
TRIES_TO_FIND = 3
"""An enqueue without an answer may still arrive; so often a job is looked for that is not there."""
CLOSE_SECONDS = 1.0


class Canceler:
    """One task, which a process starts and closes."""

    def __init__(self, store: AsyncStore) -> None:
        self._store = store
        self._tries: dict[str, int] = {}
        """How often each job was not found."""
        self._wanted, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; Redis need not be there."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Cancel what is left, if that takes no longer than a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._idle.wait()
        if self._task:
            await end_tasks(self._task)

    def cancel(self, job_id: str) -> None:
        """Cancel a job soon: at once, or when Redis is back."""
        if len(self._tries) >= MOST_JOBS:
            given_up = next(iter(self._tries))
            del self._tries[given_up]
            log.warning("%s, for which nobody waits, is not canceled: too many others are not yet", given_up)
        self._tries[job_id] = 0
        self._idle.clear()
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._tries:
                jobs = list(self._tries)[:JOBS_AT_ONCE]
                done = await asyncio.gather(*map(self._cancel, jobs))
                for job_id in (job_id for job_id, is_done in zip(jobs, done, strict=True) if is_done):
                    self._tries.pop(job_id, None)
                if not all(done):
                    await asyncio.sleep(PAUSE_SECONDS)
            self._idle.set()

    async def _cancel(self, job_id: str) -> bool:
        """Whether nothing is left to do."""
        try:
            await self._store.run(verb.cancel(job_id))
        except JobFinishedError:
            return True
        except JobNotFoundError:
            tries = self._tries.get(job_id, TRIES_TO_FIND) + 1
            if tries >= TRIES_TO_FIND:
                return True
            self._tries[job_id] = tries
            return False
        except NowservingError as error:
            log.info("%s, for which nobody waits, cannot be canceled now: %s", job_id, error.message)
            return False
        except Exception:
            log.exception("%s, for which nobody waits, cannot be canceled", job_id)
        return True
