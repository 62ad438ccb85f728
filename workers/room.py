"""How many bytes a worker may still take, by what its probe measures."""

from __future__ import annotations

import logging

from workers.memory import Memory, MemoryProbe

log = logging.getLogger(__name__)


class Room:
    """Of a device of which `fraction` is this worker's share, or all of it below `limit_bytes`, if that is given.

    With `elsewhere` the engine's memory is not this worker's to measure: then only a limit counts.
    """

    def __init__(self, probe: MemoryProbe, fraction: float, limit_bytes: int | None, elsewhere: bool) -> None:
        self._probe, self._fraction, self._limit_bytes, self._elsewhere = probe, fraction, limit_bytes, elsewhere
        self._share_bytes = 0
        self._blind = False

    def begin(self) -> None:
        """Find out how large the share is. Raises what the probe raises."""
        self._share_bytes = int(self._fraction * self._probe.read().total_bytes)

    @property
    def limit_bytes(self) -> int:
        """What may be used at the most."""
        return self._limit_bytes or self._share_bytes

    def measure(self) -> Memory | None:
        """What the probe reads; None if it fails, which must cost no running job its lease."""
        try:
            memory = self._probe.read()
        except Exception as error:
            if not self._blind:
                log.error("the memory cannot be read, and nothing more is taken until it can: %r", error)
            self._blind = True
            return None
        self._blind = False
        return memory

    def left_bytes(self, memory: Memory | None, budget_bytes: int, step_bytes: int) -> int:
        """What may still be taken, by this reading."""
        if self._elsewhere and self._limit_bytes is None:
            return budget_bytes
        return memory.room_bytes(self._share_bytes, self._limit_bytes, step_bytes) if memory else 0
