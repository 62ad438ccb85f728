"""One forward pass over the new tokens of many jobs, packed in one row without padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch

from workers.engines.attention import Attention, PackedAttention, Segment


def forward(
    model: Any,
    segments: Sequence[Segment],
    wanted: Sequence[bool],
    device: torch.device,
    attention: Attention | None = None,
) -> torch.Tensor:
    """Run the segments and keep their keys and values, each by itself unless another attention is given.

    Gives the float32 logits [sum(wanted), vocabulary] after the last token of each wanted segment.
    """
    ids = [token for segment in segments for token in segment.ids]
    positions = [position for segment in segments for position in range(segment.start, segment.end)]
    ends = accumulate(len(segment.ids) for segment in segments)
    lasts = [end - 1 for end, yes in zip(ends, wanted, strict=True) if yes]
    return run(model, ids, positions, lasts, attention or PackedAttention(segments), device)


def run(
    model: Any,
    ids: Sequence[int],
    positions: Sequence[int],
    keep: Sequence[int],
    attention: Attention,
    device: torch.device,
) -> torch.Tensor:
    """Run one row of tokens with this attention; the float32 logits [len(keep), vocabulary] of the places `keep`."""
    output = model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        use_cache=False,
        logits_to_keep=torch.tensor(keep, dtype=torch.long, device=device),
        packed=attention,
    )
    return cast(torch.Tensor, output.logits)[0].float()
