"""A worker without Celery or an engine: the store's verbs, one by one, as a test wants them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from nowserving import verb
from nowserving.answer import Suspect, Unfit
from nowserving.job import Status
from nowserving.store import Store, connect

MODEL = "noop"
LEASE_SECONDS = 60.0


class FakeWorker:
    """Takes jobs and writes for them."""

    def __init__(self, redis_url: str, name: str = "fake") -> None:
        self.store = Store(connect(redis_url))
        self.name = name
        self._claims: dict[str, str] = {}

    def close(self) -> None:
        """Give up the connection."""
        self.store.close()

    def beat(self, **info: Any) -> None:
        """Say that it lives, and what the test wants it to say of itself."""
        said = {"state": "ready", "slots": 2, "running": 0, "gate": {"open": True, "reason": None}, **info}
        call = verb.renew(
            MODEL,
            self.name,
            list(self._claims.values()),
            lease_seconds=LEASE_SECONDS,
            draining=False,
            blocked=False,
            reap_until=0,
            max_attempts=3,
            info=said,
        )
        self.store.run(call)

    def take(self) -> str | None:
        """Take the next job; its id."""
        claim = secrets.token_hex(8)
        call = verb.take(
            MODEL, self.name, [claim], lease_seconds=LEASE_SECONDS, headroom=10**6, capacity=10**6, max_takes=9
        )
        taken = self.store.run(call)
        if isinstance(taken, Unfit | Suspect) or not taken:
            return None
        self._claims[taken[0].job_id] = claim
        return taken[0].job_id

    def begin(self, anew: bool = False) -> str:
        """Take the next job, which is there, and begin it; its id."""
        job_id = self.take()
        assert job_id is not None
        assert self.store.run(verb.begin(job_id, self._claims[job_id], prompt_tokens=3, anew=anew))
        return job_id

    def progress(self, job_id: str, done: int, total: int) -> None:
        """Say how much of the prompt is read."""
        assert self.store.run(verb.progress(job_id, self._claims[job_id], done, total))

    def tokens(self, job_id: str, index: int, *texts: str) -> None:
        """Stream tokens, an event each."""
        for i, text in enumerate(texts, start=index):
            assert self.store.run(verb.append(job_id, self._claims[job_id], i, [i], text))

    def release(self, job_id: str, cause: str = "drained") -> None:
        """Hand the job back."""
        assert self.store.run(verb.release(job_id, self._claims.pop(job_id), cause))

    def finish(
        self, job_id: str, text: str = "done", status: Status = Status.SUCCEEDED, retryable: bool = True
    ) -> None:
        """End the job; `retryable` is a failure."""
        result: Mapping[str, Any] = {
            "text": text,
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        }
        if status is Status.FAILED:
            result = {"code": "engine_error", "message": text, "retryable": retryable}
        assert self.store.run(verb.finish(job_id, self._claims.pop(job_id), status, result))

    def collapse(self) -> None:
        """Let the tick come that collapses the streams of all jobs that have ended."""
        self.store.now = repr(time.time() + 31)
        self.store.run(verb.reap("test", [], period_seconds=0, max_attempts=3, reap_until=0))
        self.store.now = ""
