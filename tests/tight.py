"""A card smaller than it looks: a catalog names the engine on it as `tests.tight:make`, settings its probe as
`tests.tight:Probe`. What is allocated is counted as it is held; past the end torch's own error is raised.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch

from nowserving.catalog import Model
from tests.tiny import make_model, make_tokenizer
from workers.engines import loop, transformers
from workers.engines.cache import CacheLayout, JobCache
from workers.engines.forward import forward
from workers.engines.transformers import TransformersEngine
from workers.memory import Memory

TOTAL_BYTES = 500_000
HIDDEN_BYTES = TOTAL_BYTES // 10
"""Another process holds them, and the probe does not show it."""
STEP_BYTES_A_TOKEN = 80
STEP_BYTES = 20_000
"""What the engine believes that a step takes."""


class Card:
    """Counts bytes."""

    def __init__(self) -> None:
        self.used_bytes = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Raises torch.OutOfMemoryError if they are not there."""
        with self._lock:
            if self.used_bytes + size > TOTAL_BYTES - HIDDEN_BYTES:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes (simulated)")
            self.used_bytes += size

    def give(self, size: int) -> None:
        """They are free again."""
        with self._lock:
            self.used_bytes -= size


CARD = Card()


class Probe:
    """Sees all but what the other process holds."""

    def read(self) -> Memory:
        """See MemoryProbe."""
        return Memory(CARD.used_bytes, TOTAL_BYTES - CARD.used_bytes, TOTAL_BYTES)


class CountedCache(JobCache):
    """Takes bytes of the card until nothing refers to it any more."""

    def __init__(self, layout: CacheLayout, tokens: int) -> None:
        size = layout.size_bytes(tokens)
        CARD.take(size)
        weakref.finalize(self, CARD.give, size)
        super().__init__(layout, tokens)


def _forward(model: Any, segments: Any, *arguments: Any) -> torch.Tensor:
    """Out of memory in the midst of a step: when it has changed the caches already."""
    logits = forward(model, segments, *arguments)
    size = STEP_BYTES_A_TOKEN * sum(len(segment.ids) for segment in segments)
    CARD.take(size)
    CARD.give(size)
    return logits


def make(model: Model) -> TransformersEngine:
    """The default engine, with all of the card that the probe shows for its budget."""
    vars(loop).update(JobCache=CountedCache, forward=_forward)
    vars(transformers).update(most_step_bytes=lambda loaded, slots: STEP_BYTES)
    budget_bytes = TOTAL_BYTES - STEP_BYTES
    return TransformersEngine.of(
        make_model(), make_tokenizer(), slots=model.slots, budget_bytes=budget_bytes, threads=1
    )
