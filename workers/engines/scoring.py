"""How the new tokens of one job attend to its keys and values, in torch. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

DIMS_ALIGNED = 8
"""torch's fused kernels want numbers of dimensions that are a multiple of this."""
SCORED_TOKENS = 128
"""New tokens whose scores are all in memory at once, where torch has no kernel that does without."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer scores keys: times `scale` (None: 1/√dim), of the last `window` tokens, tanh-capped at `softcap`.

    `sinks` [heads], a logit for each query head, are of one more key, which every token sees and whose value is zero
    (gpt-oss has it). No layer has both sinks and a softcap.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether torch's causal attention scores the same within the window."""
        return self.softcap is None and self.sinks is None


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scoring: Scoring,
) -> torch.Tensor:
    """Query [heads, new, dim], keys and values [kv_heads, tokens, dim or value_dim] to [heads, new, value_dim].

    `mask` [new, tokens] says what each new token sees (None: all); `causal` in its place, with as many new tokens as
    keys, that it sees itself and those before it, and asks for a scoring that is plain. The window is the mask's.
    """
    scale = query.shape[2] ** -0.5 if scoring.scale is None else scoring.scale
    if scoring.softcap is not None:
        parts = [slice(at, at + SCORED_TOKENS) for at in range(0, query.shape[1], SCORED_TOKENS)]
        masks = [None if mask is None else mask[part] for part in parts]
        attended = [
            _attend_softcapped(query[:, part], keys, values, scale, scoring.softcap, seen)
            for part, seen in zip(parts, masks, strict=True)
        ]
        return torch.cat(attended, dim=1)
    if scoring.sinks is not None:
        return _attend_plainly(*_with_sinks(query, keys, values, mask, scoring.sinks / scale), False, scale)
    return _attend_plainly(query, keys, values, mask, causal, scale)


def _attend_plainly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """As torch does it. Where there are several new tokens no [heads, new, tokens] is in memory."""
    new, value_dim = query.shape[1], values.shape[2]
    heads, kv_heads, dim = query.shape[0], keys.shape[0], query.shape[2]
    if new > 1 and dim != value_dim:
        # torch's fused kernels want as many dimensions of values as of keys.
        widest = max(dim, value_dim)
        query, keys, values = (pad(tensor, (0, widest - tensor.shape[2])) for tensor in (query, keys, values))
        return _attend_plainly(query, keys, values, mask, causal, scale)[..., :value_dim]
    if keys.is_cuda and mask is None:
        return scaled_dot_product_attention(
            query[None], keys[None], values[None], is_causal=causal, scale=scale, enable_gqa=heads != kv_heads
        )[0]
    # Heads that share keys become a batch of their own, so that keys are never repeated in memory.
    groups = heads // kv_heads
    if new == 1 and mask is None:
        return scaled_dot_product_attention(
            query.reshape(1, kv_heads, groups, dim), keys[None], values[None], scale=scale
        ).view(heads, 1, -1)
    attended = scaled_dot_product_attention(
        query.reshape(kv_heads, groups, new, dim),
        keys[:, None].expand(-1, groups, -1, -1),
        values[:, None].expand(-1, groups, -1, -1),
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
    )
    return attended.reshape(heads, new, -1)


def _with_sinks(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, sinks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The same with one more key, whose score is in a dimension of its own. It copies the layer's keys and values."""
    dim = query.shape[2]
    query, keys, values = pad(query, (0, DIMS_ALIGNED)), pad(keys, (0, DIMS_ALIGNED, 0, 1)), pad(values, (0, 0, 0, 1))
    query[:, :, dim] = sinks[:, None]
    keys[:, -1, dim] = 1
    return query, keys, values, None if mask is None else pad(mask, (0, 1), value=True)


def _attend_softcapped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    softcap: float,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    heads, new, dim = query.shape
    grouped = query.reshape(keys.shape[0], -1, dim)
    scores = grouped @ keys.transpose(1, 2) * scale
    scores = (scores / softcap).tanh() * softcap
    scores = scores.view(heads, new, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    shares = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
    return (shares.view(keys.shape[0], -1, values.shape[1]) @ values).view(heads, new, -1)
