"""A real generation before an engine calls itself ready: kernels are chosen then, and what cannot run is found out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count

from nowserving.errors import EngineError
from nowserving.job import Input, Parameters
from workers.engines.engine import Ended, Engine, Prepared, Prompt

PROMPT_TOKENS = 12
NEW_TOKENS = 3
MOST_ROWS = 4
LIMIT_SECONDS = 600.0
GREEDY = Parameters(max_new_tokens=NEW_TOKENS, temperature=0)
SAMPLED = Parameters(max_new_tokens=NEW_TOKENS, temperature=0.8, top_k=20, top_p=0.9, seed=1)


class _Waiting:
    """A sink that waits for the end."""

    def __init__(self) -> None:
        self.end: Ended | None = None
        self.over = threading.Event()

    def begun(self, prompt_tokens: int) -> None:
        """See engine.Sink."""

    def progress(self, done: int, total: int) -> None:
        """See engine.Sink."""

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        """See engine.Sink."""

    def ended(self, end: Ended) -> None:
        """See engine.Sink."""
        self.end = end
        self.over.set()


def warm_up(engine: Engine, vocabulary: int) -> None:
    """Run one job alone, then several together, greedy and sampled, as many and as long as fit.

    Raises the error that one of them ended with, or EngineError if they do not end.
    """
    capacity, numbers = engine.capacity(), count()
    tokens = min(PROMPT_TOKENS + MOST_ROWS + NEW_TOKENS, capacity.context_tokens)
    while tokens > NEW_TOKENS and engine.cost([tokens]) > capacity.budget_bytes:
        tokens //= 2
    if tokens <= NEW_TOKENS:
        return  # no job fits: each will be told so

    def submit(row: int, parameters: Parameters) -> _Waiting:
        ids = tuple((7919 * place + 13 + row) % vocabulary for place in range(max(1, tokens - NEW_TOKENS - row)))
        prompt = Prompt(f"warm-up-{next(numbers)}", Input(prompt="warm-up"), parameters, LIMIT_SECONDS)
        sink = _Waiting()
        engine.submit(Prepared(prompt, ids, len(ids) + NEW_TOKENS), sink)
        return sink

    def wait(sinks: Sequence[_Waiting]) -> None:
        for sink in sinks:
            if not sink.over.wait(LIMIT_SECONDS) or sink.end is None:
                raise EngineError(f"the warm-up did not end in {LIMIT_SECONDS:g} s")
            if sink.end.error:
                raise sink.end.error

    wait([submit(0, GREEDY)])
    wait([submit(row, SAMPLED if row % 2 else GREEDY) for row in range(min(capacity.slots, MOST_ROWS))])
