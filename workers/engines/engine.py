"""What the worker asks of an engine, and nothing of how it is done.

An engine owns its model in one thread of its own; Celery's threads hand it jobs and wait. Every submitted job ends
in exactly one `Sink.ended`, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from nowserving.errors import NowservingError
from nowserving.job import Input, Parameters

Progress = Callable[[str, float | None], None]
"""Takes the phase of a start ("import", "download", "convert", "load", "warm-up", or a word of the engine's own) and
how much of it is done, 0 to 1 (None: nobody knows). Called as often as one likes, from any thread."""

UNKNOWN = -1
"""Stands for the id of a token whose engine knows but its text."""


class FinishReason(StrEnum):
    """Why a job made no more tokens."""

    STOP = "stop"
    LENGTH = "length"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One job as an engine sees it. `made` are the ids of tokens that an earlier attempt has already streamed, and
    `made_text` is the text that was streamed with them. A token of UNKNOWN id is one whose server did not say it.
    """

    job_id: str
    input: Input
    parameters: Parameters
    timeout_seconds: float
    made: tuple[int, ...] = ()
    made_text: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt counted exactly. `tokens` = prompt + max_new_tokens: what `cost` takes and the ledger promises."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended. `completion_tokens` counts `made` too; `error` is set if and only if the reason is ERROR."""

    reason: FinishReason
    text: str
    prompt_tokens: int
    completion_tokens: int
    error: NowservingError | None = None


class Sink(Protocol):
    """Where an engine puts what it makes of one job. Called on the engine's thread: no method blocks or raises."""

    def begun(self, prompt_tokens: int) -> None:
        """The job's prefill begins now."""

    def progress(self, done: int, total: int) -> None:
        """Of the `total` tokens of prompt and `made`, so many are prefilled; said after each step but the last."""

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        """New tokens `index`, `index + 1`, … and the text that became certain with them (it may be empty).

        A token's text depends on the tokens up to it alone, so the texts of all attempts together are `Ended.text`. The
        last token brings all that was held back; a stop token has no text; what a cancel cuts off stays held back.
        """

    def ended(self, end: Ended) -> None:
        """The one terminal event."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a loaded engine can hold. Bytes are of the device the cache lives on; `step_bytes` a step needs besides."""

    slots: int
    context_tokens: int
    budget_bytes: int
    step_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """`alive`: the loop's thread runs. `steps` grows with every turn of it, also idle (at least 1 a second).

    `reason`: why it is not alive. `full`: why it has no room for one more job now, whatever else is free. `away`: why
    it can run none now, though it will again by itself. Both are "" if it can.
    """

    alive: bool
    steps: int
    reason: str = ""
    full: str = ""
    away: str = ""


class Engine(Protocol):
    """One model, loaded once, and the loop that runs it.

    `resumes`: whether it goes on after `Prompt.made`. If not, a job taken over begins anew, and its readers are told.
    An engine may have two more, both False if it has not: `resumes_text`, whether it goes on after `Prompt.made_text`,
    also where ids are UNKNOWN; `memory_elsewhere`, whether its memory is another process's to guard.
    """

    resumes: bool

    def start(self) -> Capacity:
        """Load the model and start the loop; blocks until a job could run.

        Raises EngineUnavailableError if a later start may do better, any other EngineError if a person must mend it.
        """

    def close(self) -> None:
        """Stop the loop; jobs still running end as CANCELED."""

    def capacity(self) -> Capacity:
        """What `start` returned."""

    def cost(self, tokens: Sequence[int]) -> int:
        """Bytes the cache takes if jobs of these token bounds run together to their end. Pure, grows with each."""

    def prepare(self, prompt: Prompt) -> Prepared:
        """Tokenize and check, on the caller's thread.

        The answer's prompt is without what was made before if this one job cannot go on after that.
        Raises InvalidInputError, or TooLargeError (naming both figures) if it exceeds the context or the budget.
        """

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """Hand a job over; returns at once. Raises EngineError if the loop is not alive."""

    def cancel(self, job_id: str) -> None:
        """End a job as CANCELED before its next step; unknown ids are ignored. Callable from any thread."""

    def health(self) -> Health:
        """How the loop does."""
