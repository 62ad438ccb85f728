"""An engine that computes nothing: it shows what all the rest costs, and is the engine of tests.

Token `i` has the id `i` and the text `w<i>`. With an interval, one thread paces all jobs; without, a job ends at once,
inside `submit`.
"""

from __future__ import annotations

import heapq
import itertools
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from nowserving.errors import EngineError, InvalidInputError, TooLargeError
from workers.engines.engine import Capacity, Ended, FinishReason, Health, Prepared, Prompt, Sink

CONTEXT_TOKENS = 1_000_000
IDLE_SECONDS = 0.5

_SOURCE = re.compile(r"(?:noop)?:?(?P<tokens>\d+)?(?:@(?P<interval>[\d.]+))?(?:,(?P<each>\d+)(?:/(?P<budget>\d+))?)?\Z")


class Options(TypedDict, total=False):
    """NoopEngine's options as a source says them."""

    tokens: int
    interval_seconds: float
    bytes_per_token: int
    budget_bytes: int


def parse_source(source: str) -> Options:
    """Read `noop:TOKENS@INTERVAL_SECONDS,BYTES_PER_TOKEN/BUDGET_BYTES`; every part may be left out.

    "noop:20@0.05" makes 20 tokens, one every 50 ms; ",1000/50000" lets each job promise 1,000 bytes a token of 50,000.
    Raises EngineError.
    """
    match = _SOURCE.match(source)
    try:
        if match is None:
            raise ValueError
        options = Options()
        if match["tokens"]:
            options["tokens"] = int(match["tokens"])
        if match["interval"]:
            options["interval_seconds"] = float(match["interval"])
        if match["each"]:
            options["bytes_per_token"] = int(match["each"])
        if match["budget"]:
            options["budget_bytes"] = int(match["budget"])
    except ValueError:
        form = "noop:TOKENS@INTERVAL_SECONDS,BYTES_PER_TOKEN/BUDGET_BYTES"
        raise EngineError(f"source {source!r} is not of the form {form}, such as noop:20@0.05") from None
    return options


@dataclass(eq=False, slots=True)
class _Row:
    prepared: Prepared
    sink: Sink
    deadline: float
    last: int
    index: int
    canceled: bool = False

    @property
    def words(self) -> str:
        return " ".join(f"w{index}" for index in range(self.index))


class NoopEngine:
    """Makes `tokens` tokens for each job, at most its max_new_tokens, one every `interval_seconds`.

    A prompt counts one token a byte. `cost` is `bytes_per_token` times the tokens, of `budget_bytes`.
    """

    resumes = True

    def __init__(
        self,
        slots: int,
        *,
        tokens: int = 1,
        interval_seconds: float = 0.0,
        bytes_per_token: int = 0,
        budget_bytes: int = 1 << 30,
    ) -> None:
        self._capacity = Capacity(slots, CONTEXT_TOKENS, budget_bytes)
        self._tokens, self._interval_seconds, self._bytes_per_token = tokens, interval_seconds, bytes_per_token
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Row]] = []
        self._current: _Row | None = None
        self._order = itertools.count()
        self._steps = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> Capacity:
        """See Engine."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        return self._capacity

    def close(self) -> None:
        """See Engine."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread:
            self._thread.join()

    def capacity(self) -> Capacity:
        """See Engine."""
        return self._capacity

    def cost(self, tokens: Sequence[int]) -> int:
        """See Engine."""
        return self._bytes_per_token * sum(tokens)

    def prepare(self, prompt: Prompt) -> Prepared:
        """See Engine."""
        size_bytes = prompt.input.size_bytes
        if size_bytes == 0:
            raise InvalidInputError("the prompt is empty")
        tokens = size_bytes + prompt.parameters.max_new_tokens
        if tokens > self._capacity.context_tokens:
            raise TooLargeError(f"it needs {tokens} tokens, the context has {self._capacity.context_tokens}")
        if self.cost([tokens]) > self._capacity.budget_bytes:
            raise TooLargeError(f"it needs {self.cost([tokens])} bytes, there are {self._capacity.budget_bytes}")
        return Prepared(prompt, (0,) * size_bytes, tokens)

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """See Engine."""
        prompt = prepared.prompt
        now = time.monotonic()
        last = min(self._tokens, prompt.parameters.max_new_tokens)
        row = _Row(prepared, sink, now + prompt.timeout_seconds, last, len(prompt.made))
        if not self.health().alive:
            raise EngineError("the engine is not running")
        sink.begun(len(prepared.prompt_ids))
        if not self._interval_seconds:
            while row.index < last:
                self._make(row)
            self._end(row, FinishReason.LENGTH)
            return
        with self._changed:
            heapq.heappush(self._due, (now + self._interval_seconds, next(self._order), row))
            self._changed.notify()

    def cancel(self, job_id: str) -> None:
        """See Engine."""
        with self._changed:
            if self._current and self._current.prepared.prompt.job_id == job_id:
                self._current.canceled = True
            for index, (_, order, row) in enumerate(self._due):
                if row.prepared.prompt.job_id == job_id:
                    row.canceled = True
                    self._due[index] = (0.0, order, row)
            heapq.heapify(self._due)
            self._changed.notify()

    def health(self) -> Health:
        """See Engine."""
        alive = self._thread is not None and self._thread.is_alive() and not self._closing
        return Health(alive, self._steps, "" if alive else "the engine is not running")

    def _run(self) -> None:
        while row := self._next():
            if row.canceled:
                self._end(row, FinishReason.CANCELED)
            elif time.monotonic() >= row.deadline:
                self._end(row, FinishReason.TIMEOUT)
            elif row.index >= row.last:
                self._end(row, FinishReason.LENGTH)
            else:
                self._make(row)
                with self._changed:
                    due = min(row.deadline, time.monotonic() + self._interval_seconds)
                    at_once = row.index >= row.last or row.canceled
                    heapq.heappush(self._due, (0.0 if at_once else due, next(self._order), row))
        for _, _, row in self._due:
            self._end(row, FinishReason.CANCELED)

    def _next(self) -> _Row | None:
        """Wait for the next row that is due; None when closing. Turns at least once a second."""
        with self._changed:
            while not self._closing:
                self._steps += 1
                wait = self._due[0][0] - time.monotonic() if self._due else IDLE_SECONDS
                if wait <= 0:
                    self._current = heapq.heappop(self._due)[2]
                    return self._current
                self._changed.wait(min(wait, IDLE_SECONDS))
        return None

    def _make(self, row: _Row) -> None:
        row.index += 1
        row.sink.tokens(row.index - 1, (row.index - 1,), f"{' ' if row.index > 1 else ''}w{row.index - 1}")

    def _end(self, row: _Row, reason: FinishReason) -> None:
        row.sink.ended(Ended(reason, row.words, len(row.prepared.prompt_ids), row.index))
