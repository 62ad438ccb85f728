"""What a server's Prometheus metrics say of its room: how full its KV cache is, how many wait, how much it holds.

The three servers that are known here name them differently; from any other one nothing is learnt.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

FULL_USAGE, FREE_USAGE = 0.95, 0.90
"""The KV cache counts as full above the one, and as free again below the other."""
PATIENCE = 2
"""Looks in a row that must find someone waiting: between two steps of the server a new one always waits shortly."""

_USAGE = (
    *("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    *("sglang:token_usage", "llamacpp:kv_cache_usage_ratio"),
)
_WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred")
_TOKENS = ("sglang:max_total_num_tokens",)
_CACHE_CONFIG = "vllm:cache_config_info"
_KNOWN = (*_USAGE, *_WAITING, *_TOKENS, _CACHE_CONFIG)


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """None where the server does not say. `usage` is 0 to 1, `capacity_tokens` what its KV cache holds in all."""

    usage: float | None = None
    waiting: int | None = None
    capacity_tokens: int | None = None


def parse_metrics(text: str) -> ServerLoad:
    """Read a page of /metrics; of several replicas of an engine the fullest counts. ServerLoad() if it is none."""
    found: dict[str, list[float]] = defaultdict(list)
    capacities: list[float] = []
    try:
        for family in text_string_to_metric_families("\n".join(filter(_known, text.split("\n")))):
            for sample in family.samples:
                if math.isfinite(sample.value) and sample.value >= 0:
                    found[sample.name].append(sample.value)
                if sample.name == _CACHE_CONFIG:
                    capacities.append(_blocks(sample.labels))
        usage = next((max(found[name]) for name in _USAGE if name in found), None)
        waiting = next((sum(found[name]) for name in _WAITING if name in found), None)
        capacity = next((sum(found[name]) for name in _TOKENS if name in found), sum(capacities))
        return ServerLoad(
            usage=None if usage is None else min(usage, 1.0),
            waiting=None if waiting is None else int(waiting),
            capacity_tokens=int(capacity) or None,
        )
    except (ValueError, IndexError, KeyError, OverflowError):
        return ServerLoad()


def _known(line: str) -> bool:
    """Whether it is a sample of ours; a server's page has hundreds of others."""
    return line.startswith(_KNOWN)


def _blocks(labels: dict[str, str]) -> float:
    size, count = labels.get("block_size", ""), labels.get("num_gpu_blocks", "")
    return float(size) * float(count) if size.isdecimal() and count.isdecimal() else 0.0


class Fullness:
    """Turns looks at a server's load into "it has room" or why not, without flapping."""

    def __init__(self) -> None:
        self._full = False
        self._waits = 0

    def note(self, load: ServerLoad) -> str:
        """Take in a look; why the server has no room for one more job, or ""."""
        usage = load.usage or 0.0
        self._full = usage > (FREE_USAGE if self._full else FULL_USAGE)
        self._waits = self._waits + 1 if load.waiting else 0
        if self._full:
            return f"the server's KV cache is {usage:.0%} full"
        if self._waits >= PATIENCE:
            return f"{load.waiting} jobs wait in the server"
        return ""
