"""Tells a job's story to its stream, step by step, and has it collapsed."""

from __future__ import annotations

import time
from typing import Any

from nowserving import verb
from nowserving.event import Event
from nowserving.job import Status
from nowserving.store import Store
from tests.board import enqueue, reap, take

DUE = 30.0
OUTPUT = {"text": "made", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}

Step = tuple[int, str] | str
"""So many tokens with their text, or what befell the job between them: `read` a part of the prompt, `drained` or
`restarted`."""


def set_clock(store: Store) -> None:
    """Stop the clock at the real time: an API of other tests may tick on the same Redis, and forget what is older."""
    store.now = repr(time.time())


def later(store: Store, seconds: float) -> None:
    store.now = repr(float(store.now) + seconds)


class Teller:
    """Takes a job and writes its story, step by step."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.job_id = enqueue(store, start_within_seconds=60)
        self._claim, self._takes, self._made, self._done = "", 0, 0, 0
        self._begin(anew=False)

    def _begin(self, anew: bool) -> None:
        self._takes += 1
        self._claim = f"{self.job_id}.{self._takes}"
        assert take(self._store, self._claim)
        assert self._store.run(verb.begin(self.job_id, self._claim, 1, anew=anew))

    def tell(self, *steps: Step) -> None:
        for step in steps:
            if step == "read":
                self._done += 1
                assert self._store.run(verb.progress(self.job_id, self._claim, self._done, 99))
            elif isinstance(step, str):
                assert self._store.run(verb.release(self.job_id, self._claim, "drained"))
                self._begin(anew=step == "restarted")
                self._made = self._made if step == "drained" else 0
            else:
                count, text = step
                ids = range(self._made, self._made + count)
                assert self._store.run(verb.append(self.job_id, self._claim, self._made, ids, text))
                self._made += count

    def finish(self, status: Status = Status.SUCCEEDED, rest: str = "") -> str:
        call = verb.finish(self.job_id, self._claim, status, OUTPUT, index=self._made, text=rest)
        assert self._store.run(call)
        return self.job_id


def tell(store: Store, *steps: Step) -> str:
    teller = Teller(store)
    teller.tell(*steps)
    return teller.finish()


def collapse(store: Store) -> None:
    later(store, DUE)
    reap(store, reap_until=0)


def stream(store: Store, job_id: str) -> list[Event]:
    events: list[Event] = []
    while more := store.run(verb.read_events({job_id: events[-1].id if events else "0"}))[job_id]:
        events += more
    return events


def kinds(store: Store, job_id: str) -> list[str]:
    return [event.type for event in stream(store, job_id)]


def token(store: Store, job_id: str) -> dict[str, Any]:
    [event] = [event for event in stream(store, job_id) if event.type == "token"]
    return event.data
