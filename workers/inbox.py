"""What the engine has made of one job and the task has not yet written to Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.engines.engine import Ended

FLUSH_SECONDS = 0.05
"""The first token is passed on at once, later ones together at most this long after the last."""
FLUSH_SECONDS_A_JOB = 0.0025
LONGEST_FLUSH_SECONDS = 0.25
"""With more than twenty jobs that is longer: writing for all must leave the engine's thread its share of Python."""
PROGRESS_SECONDS = 1.0
"""The least time between two words on how much of the prompt is read; what comes sooner is left out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `index`, `index + 1`, … with the text that became certain; `begun` holds the prompt's tokens, once.

    `progress` is how many tokens are prefilled, and of how many, while none is made.
    """

    begun: int | None
    progress: tuple[int, int] | None
    index: int
    ids: tuple[int, ...]
    text: str
    ended: Ended | None


class Inbox:
    """A sink whose engine side never blocks; the task takes from it piece by piece. `jobs` says how many there are."""

    def __init__(self, made: int, jobs: Callable[[], int] = lambda: 1) -> None:
        self._jobs = jobs
        self._ready = threading.Condition()
        self._begun: int | None = None
        self._progress: tuple[int, int] | None = None
        self._index = made
        self._ids: list[int] = []
        self._text: list[str] = []
        self._ended: Ended | None = None
        self._flushed_at = self._progressed_at = float("-inf")

    def begun(self, prompt_tokens: int) -> None:
        """See engine.Sink."""
        with self._ready:
            self._begun = prompt_tokens
            self._ready.notify()

    def progress(self, done: int, total: int) -> None:
        """See engine.Sink."""
        with self._ready:
            if time.monotonic() >= self._progressed_at + PROGRESS_SECONDS:
                self._progressed_at = time.monotonic()
                self._progress = (done, total)
                self._ready.notify()

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        """See engine.Sink."""
        with self._ready:
            self._progress = None
            if not self._ids:
                self._ready.notify()  # the next ones need not wake the task: it knows how long it waits for more
            self._ids.extend(ids)
            self._text.append(text)

    def ended(self, end: Ended) -> None:
        """See engine.Sink."""
        with self._ready:
            self._progress = None
            self._ended = self._ended or end
            self._ready.notify()

    def next(self) -> Piece:
        """Wait for something to pass on. Text without a token stays for the end, since only tokens have an index."""
        with self._ready:
            while not (self._ended or self._begun is not None or self._progress or self._due()):
                wait = self._due_at() - time.monotonic() if self._ids else None
                self._ready.wait(wait)
            piece = Piece(self._begun, self._progress, self._index, tuple(self._ids), "".join(self._text), self._ended)
            self._begun = self._progress = None
            if self._ids or self._ended:
                self._index += len(self._ids)
                self._ids, self._text = [], []
                self._flushed_at = time.monotonic()
            return piece

    def _due(self) -> bool:
        return bool(self._ids) and time.monotonic() >= self._due_at()

    def _due_at(self) -> float:
        return self._flushed_at + min(LONGEST_FLUSH_SECONDS, max(FLUSH_SECONDS, FLUSH_SECONDS_A_JOB * self._jobs()))
