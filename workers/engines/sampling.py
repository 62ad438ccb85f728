"""Picks the next token of each row from its logits. Chance comes from (seed, index) alone, not a generator's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch

CANDIDATES = 1024
"""Filters look at so many likeliest tokens first; the whole vocabulary is sorted only if these do not settle it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How one row's token is to be picked. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 cut nothing."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    index: int


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) for the token `index` of a job: BLAKE2b (RFC 7693) as a counter-based generator."""
    counter = seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    return (int.from_bytes(blake2b(counter, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def pick(logits: torch.Tensor, choices: Sequence[Choice]) -> list[int | None]:
    """Pick a token for each row of `logits` [rows, vocabulary]; None where the logits are not finite."""
    best = logits.max(dim=-1)
    picked = torch.where(best.values.isfinite(), best.indices, -1)
    for rows, filtered in _groups(choices):
        here = [choices[row] for row in rows]
        scaled = logits[rows] / _column([choice.temperature for choice in here], logits).to(logits.dtype)
        sample = _sample_filtered if filtered else _sample
        picked[rows] = torch.where(picked[rows] < 0, -1, sample(scaled, here))
    return [None if token < 0 else token for token in picked.tolist()]


def _groups(choices: Sequence[Choice]) -> list[tuple[list[int], bool]]:
    drawn = [row for row, choice in enumerate(choices) if choice.temperature > 0]
    filtered = [row for row in drawn if choices[row].top_k > 0 or choices[row].top_p < 1]
    plain = [row for row in drawn if row not in filtered]
    return [(rows, rows is filtered) for rows in (plain, filtered) if rows]


def _sample(scaled: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    return _invert(scaled.softmax(dim=-1), choices)


def _sample_filtered(scaled: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    """top_k cuts first; top_p then keeps the fewest whose share of the rest reaches it. Of equals the lower id."""
    total = scaled.logsumexp(dim=-1, keepdim=True)
    candidates = min(CANDIDATES, scaled.shape[-1])
    likely, ids = scaled.topk(candidates, dim=-1)
    mass = (likely - total).exp().sum(dim=-1).tolist()
    settled = [
        choice.top_k <= candidates if choice.top_k else share >= choice.top_p
        for choice, share in zip(choices, mass, strict=True)
    ]
    picked = torch.empty(len(choices), dtype=torch.long, device=scaled.device)
    for rows, few in ((_where(settled), True), ([row for row, yes in enumerate(settled) if not yes], False)):
        if rows:
            here = [choices[row] for row in rows]
            among = ids[rows].sort(dim=-1).values if few else torch.arange(scaled.shape[-1], device=scaled.device)
            among = among.expand(len(rows), -1)
            picked[rows] = _among(scaled[rows].gather(-1, among), among, total[rows], here)
    return picked


def _among(scaled: torch.Tensor, ids: torch.Tensor, total: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    """Sample among `ids` [rows, n], in ascending order; `total` [rows, 1] is the logarithm of all tokens' mass."""
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    shares = (ordered - total).exp().double()
    rank = torch.arange(shares.shape[-1], device=shares.device)
    top_k = _column([choice.top_k or shares.shape[-1] for choice in choices], shares)
    shares = shares.masked_fill(rank >= top_k, 0.0)
    cut = _column([1.0 if choice.top_k else 0.0 for choice in choices], shares)
    whole = torch.where(cut > 0, shares.sum(dim=-1, keepdim=True), 1.0)
    before = shares.cumsum(dim=-1) - shares
    top_p = _column([choice.top_p for choice in choices], shares)
    shares = shares.masked_fill((before >= top_p * whole) & (top_p < 1), 0.0)
    return ids.gather(-1, order.gather(-1, _invert(shares, choices)[:, None]))[:, 0]


def _invert(shares: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    """Where each row's uniform number falls in its shares [rows, n], which need not sum to 1."""
    edges = shares.cumsum(dim=-1, dtype=torch.double)
    target = _column([uniform(choice.seed, choice.index) for choice in choices], shares) * edges[:, -1:]
    found = torch.searchsorted(edges, target, right=True)[:, 0]
    last = (edges < edges[:, -1:]).sum(dim=-1)
    return torch.minimum(found, last)


def _where(flags: Sequence[bool]) -> list[int]:
    return [index for index, flag in enumerate(flags) if flag]


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double, device=like.device)[:, None]
