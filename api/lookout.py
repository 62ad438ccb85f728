"""Looks out for all who follow jobs that wait: one look a job however many follow it, and only so many a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

from api.answer import describe_wait
from api.load import Load
from nowserving import schema, verb
from nowserving.answer import Wait
from nowserving.errors import NowservingError
from nowserving.event import Event
from nowserving.events import Watch, end_tasks
from nowserving.store import AsyncStore

log = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
JOBS_A_ROUND = 200
"""Some 3 ms of Redis's time. With more jobs followed than this each is looked at less often."""


class View:
    """What one reader knows of its job's wait. To be entered; it is kept up to date while the job waits."""

    def __init__(self, lookout: Lookout, watch: Watch, model: str) -> None:
        self._lookout, self._watch, self._model = lookout, watch, model
        self._known: schema.QueuePosition | None = None
        self._news: schema.QueuePosition | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lookout.leave(self._watch.job_id, self)

    def begin(self, wait: Wait) -> schema.QueuePosition:
        """The job waits: what to say of it now."""
        self._known = describe_wait(wait)
        self._lookout.follow(self._watch.job_id, self._model, self)
        return self._known

    def note(self, event: Event) -> None:
        """By this event of its stream the job waits again, or no longer."""
        if event.type == "queued":
            self._known = None
            self._lookout.follow(self._watch.job_id, self._model, self)
        else:
            self._news = None
            self._lookout.leave(self._watch.job_id, self)

    def tell(self, said: schema.QueuePosition) -> None:
        """Wake the reader if this is news to it."""
        if _gist(said) != _gist(self._known):
            self._news = said
            self._watch.wake()

    def news(self) -> schema.QueuePosition | None:
        """What has changed since this was asked last."""
        news, self._news = self._news, None
        self._known = news or self._known
        return news


@dataclass(slots=True)
class _Followed:
    model: str
    views: set[View] = field(default_factory=set)


class Lookout:
    """All views of this process, of jobs of these models."""

    def __init__(self, store: AsyncStore, load: Load, models: Iterable[str]) -> None:
        self._store, self._load, self._models = store, load, frozenset(models)
        self._followed: dict[str, _Followed] = {}
        """By job; the one looked at longest ago comes first."""
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look; Redis need not be there."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop looking."""
        if self._task:
            await end_tasks(self._task)

    def view(self, watch: Watch, model: str) -> View:
        """A reader's view of the job it watches."""
        return View(self, watch, model)

    def follow(self, job_id: str, model: str, view: View) -> None:
        """Tell the view of changes from now on. Of a model that is not in the catalog too little is known."""
        if model in self._models:
            self._followed.setdefault(job_id, _Followed(model)).views.add(view)
            self._wanted.set()

    def leave(self, job_id: str, view: View) -> None:
        """Tell it no more."""
        if followed := self._followed.get(job_id):
            followed.views.discard(view)
            if not followed.views:
                del self._followed[job_id]

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(ROUND_SECONDS)
            if not self._followed:
                self._wanted.clear()
                continue
            try:
                await self._look()
            except NowservingError as error:
                log.info("waiting jobs cannot be looked at: %s", error.message)
            except Exception:
                log.exception("looking at waiting jobs failed")

    async def _look(self) -> None:
        """One look at those whose turn it is."""
        turn = dict(islice(self._followed.items(), JOBS_A_ROUND))
        standings = await self._store.run(verb.positions(turn))
        figures = {model: await self._load.recall(model) for model in {followed.model for followed in turn.values()}}
        for job_id, followed in turn.items():
            if self._followed.get(job_id) is not followed:
                continue
            self._followed[job_id] = self._followed.pop(job_id)
            if standing := standings.get(job_id):
                known = figures[followed.model]
                wait = Wait(standing.position, known.depth, known.run_seconds, standing.delayed_until, known.workers)
                said = describe_wait(wait)
                for view in followed.views:
                    view.tell(said)


def _gist(said: schema.QueuePosition | None) -> tuple[Any, ...]:
    """What makes it worth telling again."""
    return tuple(said[name] for name in ("position", "estimated_wait_seconds", "reason")) if said else ()
