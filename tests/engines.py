"""Users' own engines that do what no engine should, named in a catalog as `tests.engines:Hazard`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy
from kombu.asynchronous import get_event_loop

from nowserving.catalog import Model
from nowserving.errors import EngineError, EngineUnavailableError, OutOfMemoryError
from workers import drain, heartbeat
from workers.engines.engine import Capacity, Ended, FinishReason, Prepared, Progress, Sink
from workers.engines.noop import NoopEngine, parse_source


class Hazard(NoopEngine):
    """A noop engine that a prompt can harm: `kill` ends the process at its prefill, `hang` stops the loop for ever,
    `break` fails with an error that may pass, each time.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model.slots, **parse_source(model.source))

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """See Engine."""
        print(f"{prepared.prompt.job_id} goes on after {len(prepared.prompt.made)}", flush=True)
        prompt = prepared.prompt.input.prompt
        if prompt == "kill":
            sink.begun(1)
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt == "break":
            sink.begun(1)
            sink.ended(Ended(FinishReason.ERROR, "", 1, 0, EngineError("it broke")))
            return
        super().submit(prepared, _Hanging(sink) if prompt == "hang" else sink)


class Stubborn(Hazard):
    """Fails to cancel."""

    def cancel(self, job_id: str) -> None:
        """See Engine."""
        raise KeyError(job_id)


class Forgetful(Hazard):
    """Cannot go on where another has stopped."""

    resumes = False


class _Hanging:
    def __init__(self, sink: Sink) -> None:
        self.begun, self.progress, self.ended = sink.begun, sink.progress, sink.ended

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        threading.Event().wait()


class Mortal(Hazard):
    """Its thread dies of the prompt `die`, and ends no job: what a user's engine may do at its worst."""

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """See Engine."""
        super().submit(prepared, _Dying(sink) if prepared.prompt.input.prompt == "die" else sink)


class _Dying:
    def __init__(self, sink: Sink) -> None:
        self.begun, self.progress, self.ended = sink.begun, sink.progress, sink.ended

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        raise SystemExit("the engine's thread dies")


class Starting(Hazard):
    """Starts as the file that `source` names says: each line that is there is done before the next is waited for.

    "43": it is so far, in percent. "broken", "away", "full", "strange": it raises such an error. "ready": it starts.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model.model_copy(update={"source": ""}))
        self.progress: Progress = lambda phase, fraction: None
        self._script = Path(model.source)

    def start(self) -> Capacity:
        """See Engine."""
        errors = {
            "broken": EngineError("the model is broken"),
            "away": EngineUnavailableError("the hub is away"),
            "full": OutOfMemoryError("the device is full"),
            "strange": RuntimeError("what is this"),
        }
        done = 0
        while True:
            lines = self._script.read_text().split()
            for line in lines[done:]:
                if line in errors:
                    raise errors[line]
                if line == "ready":
                    return super().start()
                self.progress("load", int(line) / 100)
            done = len(lines)
            time.sleep(0.01)


class Poisoning(Hazard):
    """Tells of the prompt `begun` or `text` what cannot be written; every other job is to go on."""

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """See Engine."""
        words = prepared.prompt.input.prompt
        super().submit(prepared, _Poisoned(sink, str(words)) if words in ("begun", "text") else sink)


class _Poisoned:
    def __init__(self, sink: Sink, what: str) -> None:
        self._sink, self._what = sink, what
        self.progress, self.ended = sink.progress, sink.ended

    def begun(self, prompt_tokens: int) -> None:
        self._sink.begun(cast(Any, numpy.int64(prompt_tokens)) if self._what == "begun" else prompt_tokens)

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        self._sink.tokens(index, ids, cast(Any, None) if self._what == "text" and index == 3 else text)


class Blocking(Hazard):
    """Stops Celery's loop as it starts, for ever, and lets that be seen sooner than usual."""

    def start(self) -> Capacity:
        """See Engine."""
        drain.EXIT_SECONDS = heartbeat.HANDOVER_SECONDS = 0.5
        capacity = super().start()
        hub = get_event_loop()
        assert hub
        hub.call_soon(threading.Event().wait)
        return capacity


class Unmakeable(Hazard):
    """Cannot even be made."""

    def __init__(self, model: Model) -> None:
        raise RuntimeError(f"{model.name} is not for me")


class Quitting(Hazard):
    """Ends the thread that asks it for a cost, if the file that `source` names holds that thread's name."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.model_copy(update={"source": ""}))
        self._victim = Path(model.source)

    def cost(self, tokens: Sequence[int]) -> int:
        """See Engine."""
        if self._victim.exists() and self._victim.read_text() == threading.current_thread().name:
            sys.exit("the engine ends a thread that is not its own")
        return super().cost(tokens)
