"""The loop that runs one model: between any two steps jobs may join and leave, and no job waits for another's end."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque

import torch

from nowserving.errors import EngineError, NowservingError, OutOfMemoryError, TooLargeError
from workers.engines.cache import MAX_CHUNK_TOKENS, JobCache
from workers.engines.decode import Decoder
from workers.engines.engine import FinishReason
from workers.engines.failure import error_of
from workers.engines.forward import forward
from workers.engines.model import LoadedModel
from workers.engines.pace import Pace
from workers.engines.row import Row
from workers.engines.sampling import pick

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.5


class Loop:
    """`run` belongs to the engine's thread; submit, cancel and close may come from any."""

    def __init__(self, loaded: LoadedModel, slots: int, budget_bytes: int, decoder: Decoder | None = None) -> None:
        self._loaded, self._slots, self._budget_bytes = loaded, slots, budget_bytes
        self._decoder = decoder
        self._changed = threading.Condition()
        self._live: set[Row] = set()
        self._waiting: deque[Row] = deque()
        self._running: list[Row] = []
        self._closing = False
        self._over: str | None = None
        self._crowded = False
        self._pace = Pace()
        self._newest = 0.0
        """When the last row came, by the monotonic clock."""
        self.steps = 0

    @property
    def over(self) -> str | None:
        """Why the loop runs no more; None while it does."""
        return self._over

    def submit(self, row: Row) -> None:
        """Let a row wait for its turn. Raises EngineError if the loop is over."""
        with self._changed:
            if self._over is not None:
                raise EngineError(f"the engine is not running: {self._over}")
            self._live.add(row)
            self._waiting.append(row)
            self._newest = time.monotonic()
            self._changed.notify()

    def cancel(self, job_id: str) -> None:
        """Mark the rows of this job that are known now: one submitted later is another attempt's."""
        with self._changed:
            for row in self._live:
                row.canceled |= row.job_id == job_id
            self._changed.notify()

    def close(self) -> None:
        """Let `run` return before its next step."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def run(self) -> None:
        """Turn until closed. Whatever ends it, every row gets its end."""
        over, error = "it was closed", None
        try:
            with torch.inference_mode():
                while self._wait():
                    self._sweep()
                    self._admit()
                    if self._running:
                        self._step(self._plan())
        except BaseException as cause:
            log.exception("the engine's loop ends")
            over = f"{type(cause).__name__}: {cause}"
            error = EngineError(f"the engine's loop ended: {over}")
        with self._changed:
            self._over = over
            live, self._live = self._live, set()
            self._waiting.clear()
            self._running.clear()
        for row in live:
            row.end(FinishReason.ERROR if error else FinishReason.CANCELED, error)

    def _wait(self) -> bool:
        with self._changed:
            if not (self._waiting or self._running or self._closing):
                self._changed.wait(IDLE_SECONDS)
            self.steps += 1
            return not self._closing

    def _sweep(self) -> None:
        """End the canceled and the late, waiting or running, and forget all that have ended."""
        now = time.monotonic()
        with self._changed:
            live = list(self._live)
        for row in live:
            if row.canceled:
                row.end(FinishReason.CANCELED)
            elif now >= row.deadline:
                row.end(FinishReason.TIMEOUT)
        self._forget()

    def _forget(self) -> None:
        running = [row for row in self._running if not row.over]
        if len(running) < len(self._running) or not running:
            self._crowded = False
        self._running = running
        with self._changed:
            self._live = {row for row in self._live if not row.over}
            if any(row.over for row in self._waiting):
                self._waiting = deque(row for row in self._waiting if not row.over)

    def _admit(self) -> None:
        """Let rows join, in their order, as long as there are slots and bytes for them."""
        while self._waiting and len(self._running) < self._slots and not self._crowded:
            row = self._waiting[0]
            if not self._fits(row) and self._running:
                return
            with self._changed:
                self._waiting.popleft()
            self._join(row)

    def _fits(self, row: Row) -> bool:
        held_bytes = sum(other.cache.memory.nbytes for other in self._running if other.cache)
        return held_bytes + self._loaded.layout.size_bytes(row.tokens - 1) <= self._budget_bytes

    def _join(self, row: Row) -> None:
        if not self._fits(row):
            row.fail(TooLargeError(f"its {row.tokens} tokens take more than the {self._budget_bytes} bytes there are"))
            return
        failure: NowservingError | None = None
        try:
            row.replay(self._loaded)
            if row.over:
                return
            row.begin(JobCache(self._loaded.layout, row.tokens - 1))
        except Exception as cause:
            failure = _diagnose(cause)
        if failure and not isinstance(failure, OutOfMemoryError):
            row.fail(failure)
            return
        self._running.append(row)
        if failure:
            self._make_room(failure)

    def _plan(self) -> list[tuple[Row, int]]:
        """Each row with the tokens it runs in this step: all that decode, and prompts as far as the pace allows."""
        plan, left = [], 0 if self._gathers() else self._pace.prompt_tokens
        for row in self._running:
            pending = tokens = row.pending
            if pending > 1:
                tokens = min(pending, left, MAX_CHUNK_TOKENS)
                left -= tokens
            if tokens:
                plan.append((row, tokens))
        return sorted(plan, key=lambda part: part[1] > 1)  # a decoder takes them in this order

    def _gathers(self) -> bool:
        """Whether the prompts that are there wait for more: only where others decode meanwhile, and cheaply."""
        if not (self._decoder and self._decoder.replays and any(row.pending == 1 for row in self._running)):
            return False
        prompts = sum(row.pending for row in self._running if row.pending > 1)
        return self._pace.gathers(prompts, self._newest, time.monotonic())

    def _step(self, plan: list[tuple[Row, int]]) -> None:
        began = time.monotonic()
        failure: NowservingError | None = None
        try:
            picked = self._forward(plan)
        except torch.AcceleratorError:
            raise  # the device's state is unknown: nothing more can be run in this process
        except Exception as cause:
            failure = _diagnose(cause)
        if isinstance(failure, OutOfMemoryError):
            self._make_room(failure)
        elif failure:
            if self._loaded.device.type == "cuda":
                torch.cuda.synchronize(self._loaded.device)  # raises if the device is lost: Triton's errors do not say
            self._part(plan, failure)
        else:
            prompts = any(tokens > 1 for _, tokens in plan)
            self._advance(plan, picked)
            now = time.monotonic()
            if prompts:
                self._pace.note(sum(tokens for _, tokens in plan), now - began)
                self._pace.rest(now - began, now)
        self._forget()

    def _forward(self, plan: list[tuple[Row, int]]) -> list[int | NowservingError]:
        """The next tokens of all whose part is their last. A method of its own, so that none of its tensors stays."""
        segments = [row.segment(tokens) for row, tokens in plan]
        wanted = [tokens == row.pending for row, tokens in plan]
        if self._decoder:
            logits = self._decoder.forward(segments, wanted)
        else:
            logits = forward(self._loaded.model, segments, wanted, self._loaded.device)
        return _pick(logits, [row for row, tokens in plan if tokens == row.pending])

    def _part(self, plan: list[tuple[Row, int]], failure: NowservingError) -> None:
        """A step has failed: it is run again in halves, until whoever fails is alone. No `cached` has moved."""
        if len(plan) == 1:
            plan[0][0].fail(failure)
            return
        log.warning("a step of %s jobs failed and is run again in halves: %s", len(plan), failure.message)
        middle = len(plan) // 2
        for half in (plan[:middle], plan[middle:]):
            # Out of memory in the first half may have sent a row of the second one back.
            if there := [(row, tokens) for row, tokens in half if row.cache is not None]:
                self.steps += 1
                self._step(there)

    def _advance(self, plan: list[tuple[Row, int]], picked: list[int | NowservingError]) -> None:
        finishing = iter(picked)
        for row, tokens in plan:
            final = tokens == row.pending
            row.cached += tokens
            if final:
                self._accept(row, next(finishing))
            else:
                row.progress()

    def _accept(self, row: Row, token: int | NowservingError) -> None:
        if isinstance(token, NowservingError):
            row.fail(token)
            return
        try:
            row.accept(token, self._loaded)
        except Exception as cause:
            row.fail(error_of(cause))

    def _make_room(self, failure: NowservingError) -> None:
        """Undo nothing but the newest row: the others' `cached` has not moved, so their step is simply run again.

        Called outside `except`: a bound exception would pin the tensors of the step that failed.
        """
        newest = self._running.pop()
        if self._running:
            newest.leave()
            with self._changed:
                self._waiting.appendleft(newest)
            self._crowded = True
            log.warning("out of memory: %s waits until another job ends", newest.job_id)
        else:
            newest.fail(failure)
        gc.collect()
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()  # gives fragments back to the driver; it makes no room for more


def _pick(logits: torch.Tensor, rows: list[Row]) -> list[int | NowservingError]:
    try:
        picked = pick(logits, [row.choice for row in rows])
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return [_pick_alone(logits[index : index + 1], row) for index, row in enumerate(rows)]
    return [_not_finite() if token is None else token for token in picked]


def _pick_alone(logits: torch.Tensor, row: Row) -> int | NowservingError:
    try:
        token = pick(logits, [row.choice])[0]
    except Exception as cause:
        return error_of(cause)
    return _not_finite() if token is None else token


def _not_finite() -> EngineError:
    return EngineError("the model's logits for this job are not finite numbers")


def _diagnose(cause: Exception) -> NowservingError:
    """What a failed allocation or step means. torch's CPU allocator raises a plain RuntimeError."""
    if isinstance(cause, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(cause):
        return OutOfMemoryError("the device had no memory left for this job, alone on it")
    return error_of(cause)
