"""What decoding cannot be faster than: each step reads all weights once and every row's keys and values."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

CPU_BYTES = 512 << 20
"""Far more than any cache of a processor holds."""
CUDA_BYTES = 4 << 30
TRIES = 5


def measure_bandwidth(device: str) -> float:
    """Bytes a second that the device moves at best: summing, copying, or with a matrix times a vector."""
    fastest = _fastest(device)
    if device != "cpu":
        torch.cuda.empty_cache()  # the models want the room
    return fastest


def _fastest(device: str) -> float:
    total_bytes, kind, side = CPU_BYTES, torch.float32, 4096
    if device != "cpu":
        total_bytes, kind = min(CUDA_BYTES, torch.cuda.mem_get_info(device)[0] // 4), torch.bfloat16
    source = torch.ones(total_bytes // kind.itemsize // side, side, dtype=kind, device=device)
    target, vector = torch.empty_like(source), torch.ones(side, dtype=kind, device=device)
    ways: list[tuple[Callable[[], object], int]] = [
        (source.sum, source.nbytes),
        (lambda: target.copy_(source), 2 * source.nbytes),
        (lambda: source.mv(vector), source.nbytes),
    ]
    return max(moved / min(_seconds(way, device) for _ in range(TRIES)) for way, moved in ways)


def _seconds(way: Callable[[], object], device: str) -> float:
    _finish(device)
    began = time.perf_counter()
    way()
    _finish(device)
    return time.perf_counter() - began


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def weights_bytes(model: Any) -> int:
    """What one step reads of the weights. Of a table of embeddings that is nothing but that, it reads a few rows."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    if head is None or head.weight is not table:
        tensors.pop(id(table), None)
    return sum(tensor.nbytes for tensor in tensors.values())


@dataclass(frozen=True, slots=True)
class Floor:
    """The least that decoding takes, by the memory's bandwidth alone."""

    bytes_per_second: float
    weights_bytes: int
    cost: Callable[[Sequence[int]], int]
    """Bytes of jobs' keys and values, as the engine counts them."""

    def cache_bytes(self, prompts: Sequence[int], new_tokens: int) -> int:
        """Of rows with prompts of so many tokens, half of their new tokens made."""
        return self.cost([prompt + new_tokens // 2 + 1 for prompt in prompts])

    def step_seconds(self, prompts: Sequence[int], new_tokens: int) -> float:
        """One token for each of these rows, on the mean of the way from the first new token to the last."""
        return (self.weights_bytes + self.cache_bytes(prompts, new_tokens)) / self.bytes_per_second

    def tokens_per_second(self, prompts: Sequence[int], new_tokens: int) -> float:
        """The ceiling."""
        return len(prompts) / self.step_seconds(prompts, new_tokens)
