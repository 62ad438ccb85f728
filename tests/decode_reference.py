"""A decoder's kernel in plain torch, for the CPU: it reads what the real one reads, addresses and all."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

from workers.engines.decode import DecodeTable, Replay
from workers.engines.scoring import Scoring


class ReferenceKernel:
    """See decode.Kernel. `fault` may spoil each answer."""

    nbytes = 0

    def __init__(self, fault: Callable[[torch.Tensor], torch.Tensor] = lambda attended: attended) -> None:
        self._fault = fault
        self.rows: list[int] = []

    def __call__(
        self,
        table: DecodeTable,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> torch.Tensor:
        (rows, heads, dim), (kv_heads, value_dim) = query.shape, value.shape[1:]
        self.rows.append(rows)
        output = torch.zeros(rows, heads, value_dim, dtype=query.dtype)
        for row in range(rows):
            end, slots = int(table.ends[row]), int(table.places[layer, row])
            if not end:
                continue
            keys = memory_at(int(table.keys[layer, row]), (kv_heads, slots, dim), query.dtype)
            values = memory_at(int(table.values[layer, row]), (kv_heads, slots, value_dim), query.dtype)
            keys[:, (end - 1) % slots] = key[row]
            values[:, (end - 1) % slots] = value[row]
            seen = torch.arange(max(0, end - scoring.window) if scoring.window else 0, end) % slots
            shared = heads // kv_heads
            k = keys[:, seen].float().repeat_interleave(shared, dim=0)
            v = values[:, seen].float().repeat_interleave(shared, dim=0)
            scores = (k @ query[row, :, :, None].float())[..., 0] * (
                dim**-0.5 if scoring.scale is None else scoring.scale
            )
            if scoring.softcap is not None:
                scores = scoring.softcap * (scores / scoring.softcap).tanh()
            sinks = torch.empty(heads, 0) if scoring.sinks is None else scoring.sinks.float()[:, None]
            shares = torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[:, : scores.shape[-1]]
            output[row] = (shares[:, None] @ v)[:, 0].to(query.dtype)
        return self._fault(output)


class Rerun:
    """See Capture: without graphs, work is done again by doing it again."""

    held_bytes = 0

    def __init__(self) -> None:
        self.replayed = 0

    def __call__(self, work: Callable[[], None]) -> Replay:
        def replay() -> None:
            self.replayed += 1
            work()

        work()
        return replay


def memory_at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The tensor that lies there; whoever owns the memory must keep it."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).view(shape)
