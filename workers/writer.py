"""The writer: one thread that writes to Redis what the engine makes of all jobs, in as few trips as can be.

A thread for each job would wait for Python as often as for Redis, and so would the engine's thread for them.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Sequence

from nowserving import verb
from nowserving.call import Call
from nowserving.errors import ClaimLostError, NowservingError, StoreFullError, StoreUnavailableError
from nowserving.store import Store
from workers.inbox import Inbox, Piece
from workers.lease import Lease, Leases
from workers.patience import LONGEST_RETRY_SECONDS, RETRY_SECONDS
from workers.stopwatch import Stopwatch

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.05
"""The first token of a job is written at once, later ones of all jobs together, so long after the last at most."""
FLUSH_SECONDS_A_JOB = 0.0025
LONGEST_FLUSH_SECONDS = 0.25
"""With more than twenty jobs that is longer: writing for all must leave the engine's thread its share of Python."""


class Stream:
    """A job that runs: what is written of it under its claim, and the piece that is under way."""

    def __init__(self, lease: Lease, made: int, stopwatch: Stopwatch, writer: Writer) -> None:
        self.lease, self.stopwatch = lease, stopwatch
        self.inbox = Inbox(made, writer.wake, lambda: writer.due_at)
        self.piece: Piece | None = None

    def take(self, due: bool) -> Piece | None:
        """What to write of it now: once more what was not answered, or something new."""
        if self.lease.lost.is_set():
            self.inbox.abandon()
            self.piece = None
        elif self.piece is None and (piece := self.inbox.take(due)):
            self.stopwatch.note(piece)
            self.piece = piece
        return self.piece

    def written(self) -> None:
        """What was under way is in Redis."""
        self.piece = None
        self.inbox.written()


class Writer:
    """Thread-safe. Whoever has opened a stream closes it."""

    def __init__(self, store: Store, leases: Leases) -> None:
        self._store, self._leases = store, leases
        self._streams: dict[str, Stream] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._failures = 0
        self.due_at = 0.0
        """From when on later tokens are written, by the monotonic clock."""
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def open(self, lease: Lease, made: int, stopwatch: Stopwatch) -> Stream:
        """Write from now on what comes into the stream's inbox; its first token is the job's token `made`."""
        stream = Stream(lease, made, stopwatch, self)
        with self._lock:
            self._streams[lease.claim] = stream
        return stream

    def close(self, stream: Stream) -> None:
        """Write no more of it."""
        with self._lock:
            self._streams.pop(stream.lease.claim, None)

    def streams(self) -> Sequence[Stream]:
        """Those that are open."""
        with self._lock:
            return list(self._streams.values())

    def wake(self) -> None:
        """There is something to be written at once."""
        if not self._woken.is_set():
            self._woken.set()

    def _run(self) -> None:
        while True:
            # Whatever comes when it is due wakes it; what came before has to be waited for.
            left_seconds = self.due_at - time.monotonic()
            self._woken.wait(left_seconds if left_seconds > 0 else None)
            self._woken.clear()
            try:
                self._write()
            except Exception:
                log.exception("cannot write")
                self._pause()

    def _write(self) -> None:
        due = time.monotonic() >= self.due_at
        streams = [stream for stream in self.streams() if self._take(stream, due)]
        if not streams:
            return
        if due:
            seconds = min(LONGEST_FLUSH_SECONDS, max(FLUSH_SECONDS, FLUSH_SECONDS_A_JOB * len(self._streams)))
            self.due_at = time.monotonic() + seconds
        answers = self._store.run_all([call_of(stream.lease, stream.piece) for stream in streams if stream.piece])
        unanswered = False
        for stream, answer in zip(streams, answers, strict=True):
            unanswered |= isinstance(answer, StoreUnavailableError | StoreFullError)
            self._note(stream, answer)
        if unanswered:
            self._pause()
        else:
            self._failures = 0

    def _take(self, stream: Stream, due: bool) -> bool:
        try:
            return stream.take(due) is not None
        except Exception as error:
            self._give_up(stream, error)
            return False

    def _note(self, stream: Stream, answer: bool | NowservingError) -> None:
        if answer is True:
            if not stream.piece or not stream.piece.ids:
                self.wake()  # there may be tokens already that nobody wakes it for
            stream.written()
        elif answer is False or isinstance(answer, ClaimLostError):
            self._leases.lose([stream.lease.claim])
            stream.inbox.abandon()
        elif not isinstance(answer, StoreUnavailableError | StoreFullError):
            self._give_up(stream, answer)

    def _give_up(self, stream: Stream, error: Exception) -> None:
        stream.lease.halt()
        stream.inbox.abandon(error)
        self.close(stream)

    def _pause(self) -> None:
        """Before what was not answered is sent again."""
        seconds = min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        time.sleep(seconds * (0.5 + secrets.randbelow(100) / 100))
        self._woken.set()


def call_of(lease: Lease, piece: Piece) -> Call[bool]:
    """How a piece is written; of one that holds several things only the first."""
    if piece.begun is not None:
        return verb.begin(lease.job_id, lease.claim, piece.begun, anew=lease.anew)
    if piece.progress:
        return verb.progress(lease.job_id, lease.claim, *piece.progress)
    return verb.append(lease.job_id, lease.claim, piece.index, piece.ids, piece.text)
