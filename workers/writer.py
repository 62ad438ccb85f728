"""The writer: one thread that writes to Redis what the engine makes of all jobs, in as few trips as can be.

Threads that each write for one job would wait for the interpreter's lock, and the engine's thread for them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from nowserving import verb
from nowserving.call import Call
from nowserving.errors import ClaimLostError, NowservingError, StoreFullError, StoreUnavailableError
from nowserving.store import Store
from workers.inbox import Inbox, Piece
from workers.lease import Lease, Leases
from workers.patience import pause_seconds
from workers.stopwatch import Stopwatch

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.05
"""The first token of a job is written at once, later ones of all jobs together, with so long between two such trips."""
FLUSH_SECONDS_A_JOB = 0.0025
LONGEST_FLUSH_SECONDS = 0.25
"""With more than twenty jobs that is longer: writing for all must leave the engine's thread its share of Python."""


class Stream:
    """A job that runs: what comes into its inbox is written under its claim."""

    def __init__(self, lease: Lease, inbox: Inbox, stopwatch: Stopwatch) -> None:
        self.lease, self.inbox, self.stopwatch = lease, inbox, stopwatch


class Writer:
    """Thread-safe. Whoever has opened a stream closes it."""

    def __init__(self, store: Store, leases: Leases) -> None:
        self._store, self._leases = store, leases
        self._streams: dict[str, Stream] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._failures = 0
        self._due_at = 0.0
        """From when on later tokens are written, by the monotonic clock: those that come after it wake."""
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def open(self, lease: Lease, made: int, stopwatch: Stopwatch) -> Stream:
        """Write from now on what comes into the stream's inbox; its first token is the job's token `made`."""
        stream = Stream(lease, Inbox(made, self._wake, lambda: self._due_at), stopwatch)
        with self._lock:
            self._streams[lease.claim] = stream
        return stream

    def close(self, stream: Stream) -> None:
        """Write no more of it."""
        with self._lock:
            self._streams.pop(stream.lease.claim, None)

    @property
    def dead(self) -> bool:
        """Whether its thread has ended, which it never should."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def streams(self) -> Sequence[Stream]:
        """Those that are open."""
        with self._lock:
            return list(self._streams.values())

    def _wake(self) -> None:
        if not self._woken.is_set():
            self._woken.set()

    def _run(self) -> None:
        all_written = False
        while True:
            # Tokens that came before they were due wake nobody. Only if a look found none, the next to come will.
            self._woken.wait(None if all_written else max(0.0, self._due_at - time.monotonic()))
            self._woken.clear()
            try:
                all_written = self._write()
            except Exception:
                log.exception("cannot write")
                all_written = False
                self._pause()

    def _write(self) -> bool:
        """Write what there is to be written; whether it was all that there is, since there was nothing."""
        due = time.monotonic() >= self._due_at
        pieces = [(stream, *taken) for stream in self.streams() if (taken := self._take(stream, due))]
        if not pieces:
            return due
        if due:
            seconds = min(LONGEST_FLUSH_SECONDS, max(FLUSH_SECONDS, FLUSH_SECONDS_A_JOB * len(self._streams)))
            self._due_at = time.monotonic() + seconds
        answers = self._store.run_all([call for _, _, call in pieces])
        unanswered = False
        for (stream, piece, _), answer in zip(pieces, answers, strict=True):
            if isinstance(answer, StoreUnavailableError | StoreFullError):
                unanswered = True
                continue
            try:
                self._note(stream, piece, answer)
            except Exception as error:
                self._give_up(stream, error)
        if unanswered:
            self._pause()
        else:
            self._failures = 0
        return False

    def _take(self, stream: Stream, due: bool) -> tuple[Piece, Call[bool]] | None:
        """What to write of it now, and how. What a user's engine has put there must stop no other job's writing."""
        if stream.lease.lost.is_set():
            stream.inbox.abandon()
        try:
            piece = stream.inbox.take(due)
            return (piece, calls_of(stream.lease, piece)[0]) if piece else None
        except Exception as error:
            self._give_up(stream, error)
            return None

    def _note(self, stream: Stream, piece: Piece, answer: bool | NowservingError) -> None:
        if isinstance(answer, ClaimLostError) or answer is False:
            self._leases.lose([stream.lease.claim])
            stream.inbox.abandon()
        elif isinstance(answer, NowservingError):
            self._give_up(stream, answer)
        else:
            stream.stopwatch.note(piece)
            stream.inbox.written()
            if not piece.ids:
                self._wake()  # there may be tokens already, for which nobody does

    def _give_up(self, stream: Stream, error: Exception) -> None:
        stream.lease.halt()
        stream.inbox.abandon(error)

    def _pause(self) -> None:
        """Before what was not answered is sent again."""
        time.sleep(pause_seconds(self._failures))
        self._failures += 1
        self._wake()


def calls_of(lease: Lease, piece: Piece) -> list[Call[bool]]:
    """How a piece is written."""
    calls = []
    if piece.begun is not None:
        calls.append(verb.begin(lease.job_id, lease.claim, piece.begun, anew=lease.anew))
    if piece.progress:
        calls.append(verb.progress(lease.job_id, lease.claim, *piece.progress))
    if piece.ids:
        calls.append(verb.append(lease.job_id, lease.claim, piece.index, piece.ids, piece.text))
    return calls
