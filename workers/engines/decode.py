"""Decoding for many jobs in a fixed number of launches, where the CPU's share of a step would be the longer one.

What changes between steps lies in tensors that never move: the new tokens, and where each job's cache is. So a step
that only decodes can be recorded once for so many rows and be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Protocol

import torch

from workers.engines.attention import Attention, PackedAttention, Segment
from workers.engines.cache import CacheLayout, JobCache
from workers.engines.forward import forward
from workers.engines.model import LoadedModel
from workers.engines.scoring import Scoring

Replay = Callable[[], None]

ROWS_ALIGNED = 16
"""So that every part of the table begins at an address a kernel may assume to be aligned."""


class DecodeTable:
    """One decode step as a kernel sees it: for each row its new token, and where and how long its cache is.

    Rows beyond the step's have an `end` of 0: they see nothing and keep nothing.
    """

    def __init__(self, layout: CacheLayout, rows: int) -> None:
        width = -(-rows // ROWS_ALIGNED) * ROWS_ALIGNED
        self._device = layout.device
        self._step = torch.zeros(3, width, dtype=torch.long, device=layout.device)
        self._caches = torch.zeros(3, len(layout.layers), width, dtype=torch.long, device=layout.device)
        self._columns: dict[tuple[int, int], torch.Tensor] = {}
        self._order: list[tuple[int, int]] = []
        self.ids, self.positions, self.ends = self._step
        """Of each row: its new token, that token's number, and how many tokens it has with it."""
        self.keys, self.values, self.places = self._caches
        """Of each layer and row: the addresses of its keys and values, and the slots of its ring."""

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._step.nbytes + self._caches.nbytes

    def set(self, segments: Sequence[Segment]) -> None:
        """Describe the next step: one token of each segment. Copies to the device without waiting for it."""
        # A place says all there is in a column, which so is right also for a cache where another was.
        order = [segment.cache.place for segment in segments]
        if order != self._order:
            self._point(order, [segment.cache for segment in segments])
        padding = [0] * (self._step.shape[1] - len(segments))
        ids = [segment.ids[0] for segment in segments]
        starts = [segment.start for segment in segments]
        ends = [segment.end for segment in segments]
        self._copy(self._step, torch.tensor([part + padding for part in (ids, starts, ends)]))

    def _point(self, order: list[tuple[int, int]], caches: Sequence[JobCache]) -> None:
        known = self._columns
        self._columns = {
            place: known[place] if place in known else _column(cache)
            for place, cache in zip(order, caches, strict=True)
        }
        whole = torch.zeros(self._caches.shape, dtype=torch.long)
        if order:
            whole[:, :, : len(order)] = torch.stack([self._columns[place] for place in order], dim=-1)
        self._copy(self._caches, whole)
        self._order = order

    def _copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        # Pinned memory is freed to torch's host allocator, which uses it again only after this copy is through.
        target.copy_(source.pin_memory() if self._device.type == "cuda" else source, non_blocking=True)


def _column(cache: JobCache) -> torch.Tensor:
    return torch.tensor(
        [
            [keys.data_ptr() for keys in cache.keys],
            [values.data_ptr() for values in cache.values],
            [keys.shape[1] for keys in cache.keys],
        ]
    )


class Capture(Protocol):
    """Records work on tensors that do not move. `held_bytes` is what all recordings keep on the device."""

    held_bytes: int

    def __call__(self, work: Callable[[], None]) -> Replay:
        """What does the work again, on what the tensors hold then."""


class Kernel(Protocol):
    """Attention of the rows of a table. `nbytes` is what it holds on the device."""

    nbytes: int

    def __call__(
        self,
        table: DecodeTable,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """Keep the new key and value [rows, kv_heads, dim]; query [rows, heads, dim] to [rows, heads, value_dim]."""


class BatchedAttention:
    """See Attention: the first `rows` tokens are the table's, those of `segments` follow."""

    def __init__(self, kernel: Kernel, table: DecodeTable, rows: int, segments: Sequence[Segment] = ()) -> None:
        self._kernel, self._table, self._rows = kernel, table, rows
        self._packed = PackedAttention(segments) if segments else None

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """See Attention."""
        rows = self._rows
        q, k, v = (tensor[0, :, :rows].transpose(0, 1) for tensor in (query, key, value))
        attended = self._kernel(self._table, layer, q, k, v, scoring)[None]
        if self._packed is None:
            return attended
        q, k, v = (tensor[:, :, rows:] for tensor in (query, key, value))
        return torch.cat([attended, self._packed.attend(layer, q, k, v, scoring)], dim=1)


class Decoder:
    """Does what `forward` does: decode steps by replay, mixed ones with one kernel for all rows that decode."""

    def __init__(self, loaded: LoadedModel, slots: int, kernel: Kernel) -> None:
        self._loaded, self._slots, self._kernel = loaded, slots, kernel
        self._table = DecodeTable(loaded.layout, slots)
        self._replays: dict[int, Replay] = {}
        self._logits: torch.Tensor | None = None
        self.graph_bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes it holds on the device for good, beside the model's."""
        logits = 0 if self._logits is None else self._logits.nbytes
        return self._table.nbytes + self._kernel.nbytes + logits + self.graph_bytes

    @property
    def replays(self) -> bool:
        """Whether steps that only decode are replayed."""
        return self._logits is not None

    def forward(self, segments: Sequence[Segment], wanted: Sequence[bool]) -> torch.Tensor:
        """See `forward.forward`; segments of one token come first. The logits are good until the next step."""
        rows = len(segments)
        if self._logits is None or any(len(segment.ids) > 1 for segment in segments):
            return forward(self._loaded.model, segments, wanted, self._loaded.device, self.attention(segments))
        self._table.set(segments)
        self._replays[bucket(rows, self._slots)]()
        return self._logits[:rows] if all(wanted) else self._logits[[row for row in range(rows) if wanted[row]]]

    def attention(self, segments: Sequence[Segment]) -> Attention:
        """What a step attends with that is not replayed."""
        rows = len(list(takewhile(lambda segment: len(segment.ids) == 1, segments)))
        if not rows:
            return PackedAttention(segments)
        self._table.set(segments[:rows])
        return BatchedAttention(self._kernel, self._table, rows, segments[rows:])

    def capture(self, capture: Capture) -> None:
        """Record decode steps of each size there is, the largest first: the others find its memory free."""
        self._table.set([])
        logits = torch.zeros(self._slots, self._loaded.vocabulary, device=self._loaded.device)
        sizes = sorted({bucket(rows, self._slots) for rows in range(1, self._slots + 1)}, reverse=True)
        self._replays = {rows: capture(partial(self._decode, rows, logits)) for rows in sizes}
        self._logits, self.graph_bytes = logits, capture.held_bytes

    def release(self) -> None:
        """Forget all recordings: steps are run instead."""
        self._replays, self._logits, self.graph_bytes = {}, None, 0

    def _decode(self, rows: int, logits: torch.Tensor) -> None:
        output = self._loaded.model(
            input_ids=self._table.ids[None, :rows],
            position_ids=self._table.positions[None, :rows],
            use_cache=False,
            packed=BatchedAttention(self._kernel, self._table, rows),
        )
        logits[:rows].copy_(output.logits[0])


def bucket(rows: int, slots: int) -> int:
    """How many rows a step of so many is replayed with: the next power of two, or all there are."""
    return min(slots, 1 << (rows - 1).bit_length())
