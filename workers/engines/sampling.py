"""Picks the next token of each row from its logits. Chance comes from (seed, index) alone, not a generator's state.

The order is that of transformers' `generate`: repetition_penalty, temperature, top_k, top_p, min_p.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import torch

CANDIDATES = 1024
"""Filters look at so many likeliest tokens first; the whole vocabulary is sorted only if these do not settle it."""

SURELY = 1.001
"""By so much rounding may at most make a token seem less likely, beside the likeliest, than it is."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How one row's token is to be picked. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 cut nothing.

    `seen` are the distinct tokens, on the CPU, that `repetition_penalty` is for; only if that is not 1 are they needed.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int
    index: int
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seen: torch.Tensor | None = field(default=None, compare=False)


class Seen:
    """The distinct tokens of one row, kept on the CPU so that one more costs next to nothing."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._known = set(ids)
        self._count = len(self._known)
        self._ids = np.fromiter(sorted(self._known), np.int64, self._count)

    def add(self, token: int) -> None:
        """Take in a token, if it is new."""
        if token in self._known:
            return
        self._known.add(token)
        if self._count == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty(self._count + 64, np.int64)])
        self._ids[self._count] = token
        self._count += 1

    @property
    def ids(self) -> torch.Tensor:
        """All of them, in any order; good until the next `add`."""
        return torch.from_numpy(self._ids[: self._count])


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) for the token `index` of a job: BLAKE2b (RFC 7693) as a counter-based generator."""
    counter = seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    return (int.from_bytes(blake2b(counter, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def pick(logits: torch.Tensor, choices: Sequence[Choice]) -> list[int | None]:
    """Pick a token for each row of `logits` [rows, vocabulary]; None where the logits are not finite."""
    logits = _penalize(logits, choices)
    best = logits.max(dim=-1)
    picked = torch.where(best.values.isfinite(), best.indices, -1)
    for rows, filtered in _groups(choices):
        here = [choices[row] for row in rows]
        scaled = logits[rows] / _column([choice.temperature for choice in here], logits).to(logits.dtype)
        sample = _sample_filtered if filtered else _sample
        picked[rows] = torch.where(picked[rows] < 0, -1, sample(scaled, here))
    return [None if token < 0 else token for token in picked.tolist()]


def _penalize(logits: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    """New logits, in which those of tokens that a row has seen are divided by its penalty, or multiplied if negative.

    They are changed for all rows at once, and cost what their number costs; if there are none nothing is copied.
    """
    seen = [
        (row, choice.seen, choice.repetition_penalty)
        for row, choice in enumerate(choices)
        if choice.repetition_penalty != 1.0 and choice.seen is not None
    ]
    if not seen:
        return logits
    counts = torch.tensor([len(ids) for _, ids, _ in seen])
    starts = torch.tensor([row * logits.shape[-1] for row, _, _ in seen]).repeat_interleave(counts)
    penalties = torch.tensor([penalty for _, _, penalty in seen], dtype=logits.dtype).repeat_interleave(counts)
    places = (torch.cat([ids for _, ids, _ in seen]) + starts).to(logits.device)
    penalties = penalties.to(logits.device)
    flat = logits.reshape(-1)
    found = flat[places]
    return flat.index_copy(0, places, torch.where(found < 0, found * penalties, found / penalties)).view_as(logits)


def _groups(choices: Sequence[Choice]) -> list[tuple[list[int], bool]]:
    drawn = [row for row, choice in enumerate(choices) if choice.temperature > 0]
    filtered = [row for row in drawn if choices[row].top_k > 0 or choices[row].top_p < 1 or choices[row].min_p > 0]
    plain = [row for row in drawn if row not in filtered]
    return [(rows, rows is filtered) for rows in (plain, filtered) if rows]


def _sample(scaled: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    return _invert(scaled.softmax(dim=-1), choices)


def _sample_filtered(scaled: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
    """top_k cuts first; top_p then keeps the fewest whose share of the rest reaches it; min_p then cuts what is less
    likely than its share of the likeliest. Of equals the lower id.
    """
    total = scaled.logsumexp(dim=-1, keepdim=True)
    candidates = min(CANDIDATES, scaled.shape[-1])
    likely, ids = scaled.topk(candidates, dim=-1)
    mass = (likely - total).exp().sum(dim=-1)
    rest = (likely[:, -1] - likely[:, 0]).exp()
    settled = [
        _settles(choice, candidates, share, least)
        for choice, (share, least) in zip(choices, torch.stack([mass, rest], dim=-1).tolist(), strict=True)
    ]
    picked = torch.empty(len(choices), dtype=torch.long, device=scaled.device)
    for rows, few in ((_where(settled), True), ([row for row, yes in enumerate(settled) if not yes], False)):
        if rows:
            here = [choices[row] for row in rows]
            among = ids[rows].sort(dim=-1).values if few else torch.arange(scaled.shape[-1], device=scaled.device)
            among = among.expand(len(rows), -1)
            picked[rows] = _among(scaled[rows].gather(-1, among), among, total[rows], here)
    return picked


def _settles(choice: Choice, candidates: int, share: float, least: float) -> bool:
    """Whether the filters leave none but candidates: these have that share of all mass, and no other token is more
    likely than `least` times the likeliest.
    """
    if choice.top_k:
        return choice.top_k <= candidates
    return (choice.top_p < 1 and share >= choice.top_p) or least * SURELY < choice.min_p


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
    min_p = _column([choice.min_p for choice in choices], shares)
    shares = shares.masked_fill(shares < min_p * shares[:, :1], 0.0)
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
