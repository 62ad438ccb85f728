"""The keys and values of one job, in memory of its own: exactly what the job may need, and nothing for its neighbours.

Layers with a sliding window keep a ring of the last tokens, the others all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod

import torch

MAX_CHUNK_TOKENS = 1024
"""The most tokens of one job in one step. A ring has so much more room than its window, so that a step that failed can
be run again: what it has overwritten was no longer needed by it."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer keeps of a token; `window` is how many tokens it looks back on, itself included."""

    heads: int
    key_dim: int
    value_dim: int
    window: int | None

    def slots(self, tokens: int) -> int:
        """Places for tokens, of a job of so many."""
        return tokens if self.window is None else min(tokens, self.window - 1 + MAX_CHUNK_TOKENS)

    def elements(self, tokens: int) -> int:
        """Numbers kept of a job of so many tokens."""
        return self.heads * self.slots(tokens) * (self.key_dim + self.value_dim)

    def shapes(self, tokens: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The shapes [heads, slots, dim] of keys and values."""
        slots = self.slots(tokens)
        return (self.heads, slots, self.key_dim), (self.heads, slots, self.value_dim)


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The attention layers of a model, in order, and how their tensors are kept."""

    layers: tuple[LayerShape, ...]
    dtype: torch.dtype
    device: torch.device
    _kinds: tuple[tuple[LayerShape, int], ...] = field(init=False, repr=False, compare=False)
    """The layers that differ, and how many there are of each: before a take sizes are asked for thousands of times."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kinds", tuple(Counter(self.layers).items()))

    def elements(self, tokens: int) -> int:
        """Numbers kept of a job of so many tokens."""
        return sum(count * layer.elements(tokens) for layer, count in self._kinds)

    def size_bytes(self, tokens: int) -> int:
        """Bytes of `JobCache(layout, tokens)`."""
        return self.elements(tokens) * self.dtype.itemsize


class JobCache:
    """Room for the keys and values of `tokens` tokens: one allocation, of which `keys` and `values` are views."""

    __slots__ = ("keys", "memory", "place", "tokens", "values")

    def __init__(self, layout: CacheLayout, tokens: int) -> None:
        self.tokens = tokens
        self.memory = torch.empty(layout.elements(tokens), dtype=layout.dtype, device=layout.device)
        self.place = (self.memory.data_ptr(), tokens)
        """Where it is and how large: all that tells it from another."""
        shapes = [shape for layer in layout.layers for shape in layer.shapes(tokens)]
        parts = self.memory.split([prod(shape) for shape in shapes])
        views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        self.keys, self.values = views[0::2], views[1::2]
