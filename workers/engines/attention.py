"""Attention over a packed step: the new tokens of many jobs in one row, each attending to its own job's cache.

The model calls it through transformers' attention interface, which makes no mask for a name it does not know. No token
is ever padding.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from workers.engines.cache import JobCache, LayerShape
from workers.engines.scoring import Scoring, attend

NAME = "nowserving_packed"
SHORT_TOKENS = 128
"""Prompts of up to so many tokens are attended to together on a card: there it is the launches that take the time."""
PADDED_TOKENS = 8192
"""The most that such a batch may have, padding included: it must not need more memory than other steps do."""


class Attention(Protocol):
    """What is done where the model attends; passed to the model's forward as the keyword `packed`."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """Query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim] to [1, tokens, heads, dim]."""


def _dispatch(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    packed: Attention | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    layer = getattr(module, "layer_idx", None)
    if packed is None or not isinstance(layer, int):
        raise TypeError(f"{type(module).__name__} does not attend in a way this engine knows")
    return packed.attend(layer, query, key, value, Scoring(scaling, sliding_window, softcap, s_aux)), None


AttentionInterface.register(NAME, _dispatch)


class ShapeTracer:
    """Notes what each layer keeps, and attends to nothing but the tokens given."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """See Attention."""
        self.layers[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3], scoring.window)
        return value.repeat_interleave(query.shape[1] // key.shape[1], dim=1).transpose(1, 2).contiguous()


class Segment:
    """One job's part of a step: its next `ids`, the first of which is token `start` of the job."""

    __slots__ = ("_masks", "cache", "ids", "start")

    def __init__(self, cache: JobCache, start: int, ids: Sequence[int]) -> None:
        self.cache, self.start, self.ids = cache, start, ids
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    @property
    def end(self) -> int:
        """Tokens of the job that are cached after the step."""
        return self.start + len(self.ids)

    def mask(self, slots: int, window: int | None, device: torch.device) -> torch.Tensor:
        """Which of the ring's slots (or the first `end` of them) each new token may see: booleans [new, slots].

        Slot `s` holds the latest token whose number modulo `slots` is `s`. Made once a step for all equal layers.
        """
        made = self._masks.get((slots, window))
        if made is None:
            here = torch.arange(min(slots, self.end), device=device)
            holds = self.end - 1 - (self.end - 1 - here) % slots
            tokens = torch.arange(self.start, self.end, device=device)[:, None]
            made = holds <= tokens
            if window is not None:
                made &= holds > tokens - window
            self._masks[slots, window] = made
        return made


class PackedAttention:
    """One step. `segments` lie in the row one after the other."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._sizes = [len(segment.ids) for segment in segments]
        self._prompts = Prompts.among(segments)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """See Attention: keeps the new keys and values, then lets each segment attend to its cache."""
        queries, keys, values = (tensor[0].split(self._sizes, dim=1) for tensor in (query, key, value))
        prompts = self._prompts if self._prompts and self._prompts.allow(scoring) else None
        alone = prompts.others if prompts else range(len(self._segments))
        attended = [_attend(self._segments[at], layer, queries[at], keys[at], values[at], scoring) for at in alone]
        if prompts:
            prompts.keep(layer, keys, values)
            attended.append(prompts.attend(query[0], key[0], value[0], scoring.scale))
        together = torch.cat(attended, dim=1)
        # Some models take a view of it, and all others would copy it themselves.
        return (together[:, prompts.order] if prompts else together).transpose(0, 1).contiguous()[None]


class Prompts:
    """The short prompts that are whole in a step, as one batch.

    They are padded on the right, where causal attention does not look.
    """

    def __init__(self, segments: Sequence[Segment], together: Set[Segment], device: torch.device) -> None:
        """`together` are those of the step's `segments` that make the batch."""
        starts = [0, *accumulate(len(segment.ids) for segment in segments)]
        rows = [range(start, start + len(part.ids)) for part, start in zip(segments, starts, strict=False)]
        self._together = [at for at, part in enumerate(segments) if part in together]
        self._segments = [segments[at] for at in self._together]
        self.others = [at for at, part in enumerate(segments) if part not in together]
        """Which of the step's segments are not in the batch."""
        batch, others = [rows[at] for at in self._together], [rows[at] for at in self.others]
        self._longest = max(map(len, batch))
        padded = [place for row in batch for place in (*row, *[row.start] * (self._longest - len(row)))]
        real = [number * self._longest + place for number, row in enumerate(batch) for place in range(len(row))]
        found = [place for row in (*others, *batch) for place in row]
        self._padded = torch.tensor(padded, device=device).view(len(batch), -1)
        self._real = torch.tensor(real, device=device)
        self.order = torch.tensor(found, device=device).argsort()
        """Where the row's tokens are if the others' come first."""

    @classmethod
    def among(cls, segments: Sequence[Segment]) -> Prompts | None:
        """Those of a step; None if there are not two, if they would be too large a batch, and off a card."""
        together = {part for part in segments if part.start == 0 and 1 < len(part.ids) <= SHORT_TOKENS}
        if len(together) < 2 or len(together) * max(len(part.ids) for part in together) > PADDED_TOKENS:
            return None
        device = segments[0].cache.memory.device
        return cls(segments, together, device) if _launches_cost(device) else None

    def allow(self, scoring: Scoring) -> bool:
        """Whether a layer that scores so sees all of each prompt, and scores as torch does."""
        return scoring.plain and (scoring.window is None or self._longest <= scoring.window)

    def keep(self, layer: int, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Put the batch's new keys and values into their caches; given are those of all of the step's segments."""
        caches = [part.cache.keys[layer][:, : part.end] for part in self._segments]
        caches += [part.cache.values[layer][:, : part.end] for part in self._segments]
        # One call: between two, other threads may take the interpreter. (torch's optimizers use it for its speed.)
        torch._foreach_copy_(caches, [keys[at] for at in self._together] + [values[at] for at in self._together])

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
        """All of the row, as [heads, tokens, dim], to [heads, the batch's tokens, value_dim]."""
        q, k, v = (tensor[:, self._padded].transpose(0, 1) for tensor in (query, key, value))
        attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=len(query) != len(key))
        return attended.transpose(0, 1).flatten(1, 2)[:, self._real]


def _launches_cost(device: torch.device) -> bool:
    return device.type == "cuda"


def _attend(
    segment: Segment,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scoring: Scoring,
) -> torch.Tensor:
    """Query [heads, new, dim] to [heads, new, value_dim]."""
    window = scoring.window
    keys, values = segment.cache.keys[layer], segment.cache.values[layer]
    slots, start, end, new = keys.shape[1], segment.start, segment.end, query.shape[1]
    if end <= slots:
        keys[:, start:end].copy_(key)
        values[:, start:end].copy_(value)
        first = max(0, end - window) if window is not None and new == 1 else 0
        keys, values = keys[:, first:end], values[:, first:end]
    else:
        places = torch.arange(start, end, device=keys.device) % slots
        keys.index_copy_(1, places, key)
        values.index_copy_(1, places, value)
    whole = end <= slots and (window is None or end <= window or new == 1)
    causal = whole and start == 0 and new > 1 and scoring.plain
    mask = None if whole and (causal or new == 1) else segment.mask(slots, window, keys.device)
    return attend(query, keys, values, mask, causal, scoring)
