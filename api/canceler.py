"""Cancels jobs for which nobody waits any more; while Redis is away it remembers them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from nowserving import verb
from nowserving.errors import JobFinishedError, JobNotFoundError, NowservingError, StoreUnavailableError
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

    @property
    def waiting(self) -> int:
        """Jobs that are not canceled yet."""
        return len(self._tries)

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
                await self._cancel_all()
                if self._tries:
                    await asyncio.sleep(PAUSE_SECONDS)
            self._idle.set()

    async def _cancel_all(self) -> None:
        """Try each once; while Redis is away only the first."""
        jobs = list(self._tries)
        for first in range(0, len(jobs), JOBS_AT_ONCE):
            answered = await asyncio.gather(*map(self._cancel, jobs[first : first + JOBS_AT_ONCE]))
            if not all(answered):
                return

    async def _cancel(self, job_id: str) -> bool:
        """Whether Redis has answered; if nothing is left to do for the job, it is forgotten."""
        try:
            await self._store.run(verb.cancel(job_id))
        except JobFinishedError:
            pass
        except JobNotFoundError:
            tries = self._tries.get(job_id, TRIES_TO_FIND) + 1
            if tries < TRIES_TO_FIND:
                self._tries[job_id] = tries
                return True
        except StoreUnavailableError as error:
            log.info("%s, for which nobody waits, cannot be canceled now: %s", job_id, error.message)
            return False
        except NowservingError as error:
            log.warning("%s, for which nobody waits, is not canceled: %s", job_id, error.message)
        except Exception:
            log.exception("%s, for which nobody waits, cannot be canceled", job_id)
        self._tries.pop(job_id, None)
        return True
