"""What the engine has made of one job and is not yet written to Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.engines.engine import Ended

PROGRESS_SECONDS = 1.0
"""The least time between two words on how much of the prompt is read; what comes sooner is left out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `index`, `index + 1`, … with the text that became certain; `begun` holds the prompt's tokens, once.

    `progress` is how many tokens are prefilled, and of how many, while none is made. One without `ended` holds one of
    the three: what is written of a job is written call by call.
    """

    begun: int | None = None
    progress: tuple[int, int] | None = None
    index: int = 0
    ids: tuple[int, ...] = ()
    text: str = ""
    ended: Ended | None = None


class Inbox:
    """A sink whose engine side never blocks. A writer takes pieces from it, one at a time; the task waits for the end.

    `wake` is called when there is something to be written at once: what is no token, the first token, and any that
    comes after `due()`.
    """

    def __init__(self, made: int, wake: Callable[[], None], due: Callable[[], float]) -> None:
        self._wake, self._due = wake, due
        self._changed = threading.Condition()
        self._begun: int | None = None
        self._progress: tuple[int, int] | None = None
        self._index = made
        self._ids: list[int] = []
        self._text: list[str] = []
        self._ended: Ended | None = None
        self._failure: Exception | None = None
        self._first = True
        self._sent: Piece | None = None
        """Taken, and not known to be written."""
        self._abandoned = False
        self._progressed_at = float("-inf")

    def begun(self, prompt_tokens: int) -> None:
        """See engine.Sink."""
        with self._changed:
            self._begun = prompt_tokens
        self._wake()

    def progress(self, done: int, total: int) -> None:
        """See engine.Sink."""
        now = time.monotonic()
        with self._changed:
            if now < self._progressed_at + PROGRESS_SECONDS:
                return
            self._progressed_at = now
            self._progress = (done, total)
        self._wake()

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        """See engine.Sink."""
        with self._changed:
            self._progress = None
            self._ids.extend(ids)
            self._text.append(text)
        if self._first or time.monotonic() >= self._due():
            self._wake()

    def ended(self, end: Ended) -> None:
        """See engine.Sink."""
        with self._changed:
            self._progress = None
            self._ended = self._ended or end
            self._changed.notify()

    def take(self, due: bool) -> Piece | None:
        """What is to be written now: the same again until it is `written`; later tokens only if they are `due`.

        Text without a token stays for the end, since only tokens have an index; and so does all once there is an end.
        """
        with self._changed:
            if self._sent is None and not self._abandoned and not self._ended:
                if self._begun is not None:
                    self._sent, self._begun = Piece(begun=self._begun), None
                elif self._progress:
                    self._sent, self._progress = Piece(progress=self._progress), None
                elif self._ids and (due or self._first):
                    self._sent, self._first = self._all(), False
            return self._sent

    def written(self) -> None:
        """What was taken is in Redis."""
        with self._changed:
            self._sent = None
            if self._ended:
                self._changed.notify()

    def abandon(self, failure: Exception | None = None) -> None:
        """Nothing more is written of it, nor what was taken again; `rest` raises the failure, if there is one."""
        with self._changed:
            self._abandoned, self._sent = True, None
            self._failure = self._failure or failure
            self._changed.notify()

    def rest(self) -> Piece:
        """Wait for the end, and for what was taken to be written; the end, with all that is left.

        Raises what `abandon` was told.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure or (self._ended and self._sent is None))
            if self._failure:
                raise self._failure
            return self._all()

    def _all(self) -> Piece:
        ids, text = tuple(self._ids), "".join(self._text)
        piece = Piece(self._begun, None, self._index, ids, text, self._ended)
        self._begun = None
        self._index += len(ids)
        self._ids, self._text = [], []
        return piece
