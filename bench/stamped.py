"""An engine that notes when it made each token, for `bench.stream`: in a file, by the clock of all processes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from nowserving.catalog import Model
from nowserving.settings import load_settings
from workers.engines.engine import Capacity, Ended, Engine, Health, Prepared, Prompt, Sink
from workers.engines.load import make_engine

FILE = "BENCH_STAMPS"
"""The environment variable that names the file: a line of JSON for each ended job."""


class Stamped:
    """The engine that the model's source is for, noop or transformers, with stamps on what it makes."""

    resumes = True

    def __init__(self, model: Model) -> None:
        engine = "noop" if model.source.startswith("noop") else "transformers"
        self._inner: Engine = make_engine(model.model_copy(update={"engine": engine}), load_settings().cache_dir)

    def start(self) -> Capacity:
        """See Engine."""
        return self._inner.start()

    def close(self) -> None:
        """See Engine."""
        self._inner.close()

    def capacity(self) -> Capacity:
        """See Engine."""
        return self._inner.capacity()

    def cost(self, tokens: Sequence[int]) -> int:
        """See Engine."""
        return self._inner.cost(tokens)

    def prepare(self, prompt: Prompt) -> Prepared:
        """See Engine."""
        return self._inner.prepare(prompt)

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """See Engine."""
        self._inner.submit(prepared, _Stamping(prepared.prompt.job_id, sink))

    def cancel(self, job_id: str) -> None:
        """See Engine."""
        self._inner.cancel(job_id)

    def health(self) -> Health:
        """See Engine."""
        return self._inner.health()


class _Stamping:
    def __init__(self, job_id: str, sink: Sink) -> None:
        self._job_id, self._sink = job_id, sink
        self._made: list[float] = []
        self._clock: tuple[float, float, float] | None = None
        self.begun, self.progress = sink.begun, sink.progress

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        self._made += [time.monotonic()] * len(ids)
        self._clock = self._clock or read_clock()
        self._sink.tokens(index, ids, text)

    def ended(self, end: Ended) -> None:
        self._sink.ended(end)
        with Path(os.environ[FILE]).open("a") as file:
            clock = [self._clock, read_clock()]
            file.write(json.dumps({"job": self._job_id, "made": self._made, "clock": clock}) + "\n")


def read_clock() -> tuple[float, float, float]:
    """Seconds of this thread: by the monotonic clock, on a core, waiting for a core."""
    ran, waited, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    return time.monotonic(), int(ran) / 1e9, int(waited) / 1e9
