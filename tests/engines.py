"""Users' own engines that do what no engine should, named in a catalog as `tests.engines:Hazard`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

from nowserving.catalog import Model
from nowserving.errors import EngineError
from workers.engines.engine import Ended, FinishReason, Prepared, Sink
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
