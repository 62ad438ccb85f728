"""A base for users' own engines (docs/engines.md): who writes `load` and `generate` keeps all the protocol promises."""

from __future__ import annotations

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from nowserving.catalog import Model
from nowserving.errors import EngineError, InvalidInputError, NowservingError, TooLargeError
from nowserving.job import Input, Parameters
from workers.engines.engine import Capacity, Ended, FinishReason, Health, Prepared, Progress, Prompt, Sink
from workers.engines.failure import error_of
from workers.engines.stop import StopMatcher

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.5
END = object()

Token = tuple[int, str] | str
"""A token's id and text; of a text alone the id is the token's index."""


class SimpleEngine(ABC):
    """One thread loads the model and lets every running job make a token in turn.

    `resumes`: set it if `generate` goes on after `prompt.made`; the text of those tokens is then asked of `text_of`.
    """

    resumes = False
    context_tokens = 1_000_000
    """The most tokens of a prompt and what is made of it."""
    bytes_per_token = 0
    """What a token of a running job takes of `budget_bytes`; 0: memory is no concern."""
    budget_bytes = 1 << 30

    def __init__(self, model: Model) -> None:
        self.model = model
        self.progress: Progress = lambda phase, fraction: None
        self._changed = threading.Condition()
        self._rows: list[_Row] = []
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._closing = False
        self._over = "it is not started"
        self._steps = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @abstractmethod
    def load(self) -> None:
        """Make ready, on the engine's thread; `self.progress("load", 0.43)` tells how far it is.

        Raise EngineError if a person must mend something, EngineUnavailableError if it may pass.
        """

    @abstractmethod
    def generate(self, prompt: Prompt) -> Iterator[Token]:
        """Yield one token after the other, each within a second; return where the text ends by itself.

        The base counts tokens, cuts at stop strings, and closes the generator on cancel and timeout. What is raised
        ends this job alone.
        """

    def count(self, prompt: Prompt) -> int:
        """How many tokens the prompt has; by default a token a byte. May raise InvalidInputError."""
        return prompt.input.size_bytes

    def text_of(self, token: int) -> str:
        """The text of a token made by an earlier attempt. Needed if `resumes`."""
        raise NotImplementedError

    def start(self) -> Capacity:
        """See Engine."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self.capacity()

    def close(self) -> None:
        """See Engine."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def capacity(self) -> Capacity:
        """See Engine."""
        return Capacity(self.model.slots, self.context_tokens, self.budget_bytes)

    def cost(self, tokens: Sequence[int]) -> int:
        """See Engine."""
        return self.bytes_per_token * sum(tokens)

    def prepare(self, prompt: Prompt) -> Prepared:
        """See Engine."""
        count = self.count(prompt)
        if count <= 0:
            raise InvalidInputError("the prompt is empty")
        tokens = count + prompt.parameters.max_new_tokens
        if tokens > self.context_tokens:
            raise TooLargeError(f"it needs {tokens} tokens, the context has {self.context_tokens}")
        if self.cost([tokens]) > self.budget_bytes:
            raise TooLargeError(f"it needs {self.cost([tokens])} bytes, there are {self.budget_bytes}")
        return Prepared(prompt, (0,) * count, tokens)

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """See Engine."""
        with self._changed:
            if self._over:
                raise EngineError(f"the engine is not running: {self._over}")
            self._rows.append(_Row(prepared, sink))
            self._changed.notify_all()

    def cancel(self, job_id: str) -> None:
        """See Engine."""
        with self._changed:
            for row in self._rows:
                row.canceled |= row.prepared.prompt.job_id == job_id

    def health(self) -> Health:
        """See Engine."""
        over = self._over or ("" if self._thread.is_alive() else "its thread has died")
        return Health(not over, self._steps, over)

    def _run(self) -> None:
        over: BaseException | None = None
        try:
            self.progress("load", None)
            self.load()
            self.progress("warm-up", None)
            self._warm_up()
            self._over = ""
            self._ready.set()
            while self._wait():
                for row in list(self._rows):
                    self._step(row)
        except BaseException as cause:
            over = cause
            if self._ready.is_set():
                log.exception("the engine's loop ends")
        with self._changed:
            self._over = f"{type(over).__name__}: {over}" if over else "it was closed"
            self._failure = over
            rows, self._rows = self._rows, []
        self._ready.set()
        for row in rows:
            error = EngineError(f"the engine's loop ended: {self._over}") if over else None
            row.end(FinishReason.ERROR if over else FinishReason.CANCELED, error)

    def _warm_up(self) -> None:
        """Let it make one token before it is called ready."""
        prompt = Prompt("warm-up", Input(prompt="warm-up"), Parameters(max_new_tokens=1, seed=1), 60.0)
        try:
            self.count(prompt)
            next(iter(self.generate(prompt)), None)
        except InvalidInputError:
            log.info("no warm-up: the engine takes no such prompt")

    def _wait(self) -> bool:
        with self._changed:
            if not self._rows and not self._closing:
                self._changed.wait(IDLE_SECONDS)
            self._steps += 1
            return not self._closing

    def _step(self, row: _Row) -> None:
        self._steps += 1
        if row.canceled:
            row.end(FinishReason.CANCELED)
        elif time.monotonic() >= row.deadline:
            row.end(FinishReason.TIMEOUT)
        else:
            try:
                row.advance(self)
            except Exception as cause:
                if _is_fatal(cause):
                    raise
                row.end(FinishReason.ERROR, error_of(cause))
        if row.over:
            with self._changed:
                self._rows.remove(row)


class _Row:
    """One job on the engine's thread."""

    def __init__(self, prepared: Prepared, sink: Sink) -> None:
        self.prepared, self._sink = prepared, sink
        self.deadline = time.monotonic() + prepared.prompt.timeout_seconds
        self.canceled = self.over = False
        self._tokens: Iterator[Token] | None = None
        self._matcher = StopMatcher(prepared.prompt.parameters.stop)
        self._count, self._text = 0, ""
        self._kept: tuple[tuple[int, int], str] | None = None

    def advance(self, engine: SimpleEngine) -> None:
        """Begin it, or let it make one token."""
        parameters = self.prepared.prompt.parameters
        if self._tokens is None and not self._begin(engine, parameters.max_new_tokens):
            return
        assert self._tokens is not None
        made: Any = next(self._tokens, END)
        if made is END:
            self._emit(None, self._flush())
            self.end(FinishReason.STOP)
            return
        token, text = (self._count, made) if isinstance(made, str) else made
        if not (type(token) is int and 0 <= token < 2**63 and isinstance(text, str)):
            raise EngineError(f"generate yielded {made!r:.100}: a token is (id, text) or a text alone")
        if token in parameters.stop_token_ids and not isinstance(made, str):
            self._take("")
            self._emit((self._count - 1, token), "")
            self._emit(None, self._flush())
            self.end(FinishReason.STOP)
            return
        text, stopped = self._take(text)
        self._emit((self._count - 1, token), text)
        if stopped or self._count >= parameters.max_new_tokens:
            self._emit(None, "" if stopped else self._flush())
            self.end(FinishReason.STOP if stopped else FinishReason.LENGTH)
        elif not parameters.stop:
            self._emit(None, "")

    def _begin(self, engine: SimpleEngine, most: int) -> bool:
        """Take in silence what an earlier attempt has streamed; False if that has ended the job."""
        self._sink.begun(len(self.prepared.prompt_ids))
        for token in self.prepared.prompt.made:
            ends = token in self.prepared.prompt.parameters.stop_token_ids
            stopped = self._take("" if ends else engine.text_of(token))[1]
            if ends:
                self._flush()
                self.end(FinishReason.STOP)
                return False
            if stopped or self._count >= most:
                if not stopped:
                    self._flush()
                self.end(FinishReason.STOP if stopped else FinishReason.LENGTH)
                return False
        self._tokens = iter(engine.generate(self.prepared.prompt))
        return True

    def _emit(self, token: tuple[int, int] | None, text: str) -> None:
        """Stream the token before, and keep this one back: if it is the last, it brings what the matcher holds."""
        if self._kept is not None:
            (index, made), before = self._kept
            self._sink.tokens(index, (made,), before if token else before + text)
        self._kept = (token, text) if token else None

    def end(self, reason: FinishReason, error: NowservingError | None = None) -> None:
        """End it, once; what the user's generator raises at being closed is only logged."""
        if self.over:
            return
        self.over = True
        try:
            if close := getattr(self._tokens, "close", None):
                close()
        except Exception:
            log.exception("%s: the generator failed to close", self.prepared.prompt.job_id)
        self._sink.ended(Ended(reason, self._text, len(self.prepared.prompt_ids), self._count, error))

    def _take(self, text: str) -> tuple[str, bool]:
        certain, stopped = self._matcher.feed(text)
        self._count += 1
        self._text += certain
        return certain, stopped

    def _flush(self) -> str:
        held = self._matcher.flush()
        self._text += held
        return held


def _is_fatal(cause: Exception) -> bool:
    """After such an error of the device nothing more can be run in this process. torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(cause, torch.AcceleratorError)
