"""The Triton kernel behind batched decoding: one launch attends for one new token of every job, each to its own cache.

A job's context is split among programs in a way that depends on its own length alone, so that its neighbours never
change its numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from workers.engines.cache import CacheLayout
from workers.engines.decode import DecodeTable
from workers.engines.scoring import Scoring

SPLITS = 32
CHUNK_TOKENS = 128
"""A context is cut into parts of so many tokens, or into so many parts if it is longer."""
PROGRAMS = 512
"""As many keep a large card busy: an H200 reads 128 rows of 1,000 tokens at 4.1 TB/s, of 4.3 a copy moves."""
FEWEST_PROGRAMS = 8
"""Of each row and head, however many rows there are: else a step would wait for its longest job."""
TILE_BYTES = 16 << 10
"""Of keys, and as much of values, at once; with what is fetched ahead a program takes up to 96 KB of shared memory."""


class TritonKernel:
    """See decode.Kernel. Its scratch memory is allocated once: captured graphs hold its address."""

    def __init__(self, layout: CacheLayout, heads: int, slots: int, splits: int = SPLITS, chunk: int = CHUNK_TOKENS):
        self._splits, self._chunk = splits, chunk
        widest = max(layer.value_dim for layer in layout.layers)
        self._scratch = torch.empty(slots * heads * splits * (widest + 2), dtype=torch.float32, device=layout.device)
        self.nbytes = self._scratch.nbytes
        dims = [dim for layer in layout.layers for dim in (layer.key_dim, layer.value_dim)]
        self._aligned = all(dim * layout.dtype.itemsize % 16 == 0 for dim in dims)  # then so is every part of a cache

    def __call__(
        self,
        table: DecodeTable,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        """See decode.Kernel. Raises RuntimeError if the kernel cannot run."""
        (rows, heads, dim), (kv_heads, value_dim) = query.shape, value.shape[1:]
        partials = rows * heads * self._splits
        if partials * (value_dim + 2) > self._scratch.numel():
            raise RuntimeError(f"layer {layer} attends with more heads than the model's configuration says")
        sums, peaks = self._scratch[:partials], self._scratch[partials : 2 * partials]
        parts = self._scratch[2 * partials :]
        output = torch.empty(rows, heads, value_dim, dtype=query.dtype, device=query.device)
        split: dict[str, Any] = {"WINDOW": scoring.window or 0, "CHUNK": self._chunk, "SPLITS": self._splits}
        padded = max(16, triton.next_power_of_2(value_dim))
        programs = min(self._splits, max(FEWEST_PROGRAMS, triton.cdiv(PROGRAMS, rows * kv_heads)))
        _attend[rows, kv_heads, programs](
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            table.keys[layer],
            table.values[layer],
            table.places[layer],
            table.ends,
            parts,
            peaks,
            sums,
            dim**-0.5 if scoring.scale is None else scoring.scale,
            float(scoring.softcap or 0.0),
            CAPPED=scoring.softcap is not None,
            ALIGNED=self._aligned,
            KV_HEADS=kv_heads,
            GROUP=heads // kv_heads,
            GROUP_PADDED=max(16, triton.next_power_of_2(heads // kv_heads)),
            DIM=dim,
            DIM_PADDED=max(16, triton.next_power_of_2(dim)),
            VALUE_DIM=value_dim,
            VALUE_PADDED=padded,
            BLOCK=max(16, min(64, TILE_BYTES // (max(padded, triton.next_power_of_2(dim)) * query.element_size()))),
            **split,
            num_warps=4,
            num_stages=3,
        )
        _merge[rows, heads](
            parts,
            peaks,
            sums,
            table.ends,
            output,
            sums if scoring.sinks is None else scoring.sinks,  # without SINKS nobody reads it
            SINKS=scoring.sinks is not None,
            VALUE_DIM=value_dim,
            VALUE_PADDED=padded,
            **split,
            num_warps=4,
        )
        return output


@triton.jit
def _span(ends, row, WINDOW: tl.constexpr, CHUNK: tl.constexpr, SPLITS: tl.constexpr):
    """The tokens [begin, end) a row sees, and how many of them make a part."""
    end = tl.load(ends + row).to(tl.int32)
    begin = tl.maximum(end - WINDOW, 0) if WINDOW > 0 else 0 * end
    chunk = tl.maximum(CHUNK, tl.cdiv(end - begin, SPLITS))
    return begin, end, chunk


@triton.jit
def _attend(
    query,
    key,
    value,
    keys,
    values,
    places,
    ends,
    parts,
    peaks,
    sums,
    scale,
    softcap,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    CAPPED: tl.constexpr,
    ALIGNED: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Parts of one row for the query heads that share one head of keys, each with its peak and its sum of shares.

    The new token is taken from `key` and `value`, not from the cache, where the row's last part puts it.
    """
    row, kv_head = tl.program_id(0), tl.program_id(1)
    begin, end, chunk = _span(ends, row, WINDOW, CHUNK, SPLITS)
    count = tl.cdiv(end - begin, chunk)
    slots = tl.load(places + row).to(tl.int32)
    dtype: tl.constexpr = query.dtype.element_ty
    keys_here = tl.load(keys + row).to(tl.pointer_type(dtype))
    values_here = tl.load(values + row).to(tl.pointer_type(dtype))
    if ALIGNED:
        keys_here = tl.multiple_of(keys_here, 16)
        values_here = tl.multiple_of(values_here, 16)
    keys_here += kv_head.to(tl.int64) * slots * DIM
    values_here += kv_head.to(tl.int64) * slots * VALUE_DIM
    group, dims, value_dims = tl.arange(0, GROUP_PADDED), tl.arange(0, DIM_PADDED), tl.arange(0, VALUE_PADDED)
    heads = (row * KV_HEADS + kv_head) * GROUP + group
    used = group < GROUP
    q = tl.load(query + heads[:, None] * DIM + dims, mask=used[:, None] & (dims < DIM), other=0.0)
    new_key = tl.load(key + (row * KV_HEADS + kv_head) * DIM + dims, mask=dims < DIM, other=0.0)
    new_value = tl.load(
        value + (row * KV_HEADS + kv_head) * VALUE_DIM + value_dims, mask=value_dims < VALUE_DIM, other=0.0
    )
    new_score = tl.sum(q.to(tl.float32) * new_key.to(tl.float32), axis=1) * scale
    if CAPPED:
        new_score = _cap(new_score, softcap)
    for part in range(tl.program_id(2), count, tl.num_programs(2)):
        first = begin + part * chunk
        stop = tl.minimum(first + chunk, end - 1)
        last = part == count - 1
        peak = tl.where(last, new_score, float("-inf"))
        total = tl.where(last, tl.full([GROUP_PADDED], 1.0, tl.float32), 0.0)
        sum_ = tl.where(last, tl.zeros([GROUP_PADDED, VALUE_PADDED], tl.float32) + new_value.to(tl.float32), 0.0)
        if last:
            place = (end - 1) % slots
            tl.store(keys_here + place * DIM + dims, new_key, mask=dims < DIM)
            tl.store(values_here + place * VALUE_DIM + value_dims, new_value, mask=value_dims < VALUE_DIM)
        for token in range(first, stop, BLOCK):
            tokens = token + tl.arange(0, BLOCK)
            here = tokens < stop
            place = tokens % slots if WINDOW > 0 else tokens
            k = tl.load(keys_here + place[:, None] * DIM + dims, mask=here[:, None] & (dims < DIM), other=0.0)
            v = tl.load(
                values_here + place[:, None] * VALUE_DIM + value_dims,
                mask=here[:, None] & (value_dims < VALUE_DIM),
                other=0.0,
            )
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            if CAPPED:
                scores = _cap(scores, softcap)
            scores = tl.where(here, scores, float("-inf"))
            higher = tl.maximum(peak, tl.max(scores, axis=1))
            shares = tl.exp(scores - higher[:, None])
            kept = tl.exp(peak - higher)
            total = total * kept + tl.sum(shares, axis=1)
            sum_ = sum_ * kept[:, None] + tl.dot(shares.to(dtype), v, input_precision="ieee")
            peak = higher
        at = heads * SPLITS + part
        tl.store(peaks + at, peak, mask=used)
        tl.store(sums + at, total, mask=used)
        tl.store(parts + at[:, None] * VALUE_DIM + value_dims, sum_, mask=used[:, None] & (value_dims < VALUE_DIM))


@triton.jit
def _cap(scores, softcap):
    """softcap × tanh(scores / softcap), by the exponential, which every backend has."""
    return softcap * (1 - 2 / (tl.exp(2 * scores / softcap) + 1))


@triton.jit
def _merge(
    parts,
    peaks,
    sums,
    ends,
    output,
    sinks,
    SINKS: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
):
    """One row and head from its parts; zeros for a row that pads the batch, which has none.

    A sink is one more part, whose values are zero.
    """
    row = tl.program_id(0)
    begin, end, chunk = _span(ends, row, WINDOW, CHUNK, SPLITS)
    part, dims = tl.arange(0, SPLITS), tl.arange(0, VALUE_PADDED)
    there = part < tl.cdiv(end - begin, chunk)
    head = row * tl.num_programs(1) + tl.program_id(1)
    at = head * SPLITS + part
    peak = tl.load(peaks + at, mask=there, other=float("-inf"))
    sink = tl.load(sinks + tl.program_id(1)).to(tl.float32) if SINKS else float("-inf")
    highest = tl.maximum(tl.maximum(tl.max(peak, axis=0), sink), -1e30)
    weight = tl.exp(peak - highest)  # 0 for parts that are not there
    total = tl.sum(weight * tl.load(sums + at, mask=there, other=0.0), axis=0) + tl.exp(sink - highest)
    sum_ = tl.load(parts + at[:, None] * VALUE_DIM + dims, mask=there[:, None] & (dims < VALUE_DIM), other=0.0)
    merged = tl.sum(weight[:, None] * sum_, axis=0) / tl.where(total > 0, total, 1.0)
    tl.store(output + head * VALUE_DIM + dims, merged.to(output.dtype.element_ty), mask=dims < VALUE_DIM)
