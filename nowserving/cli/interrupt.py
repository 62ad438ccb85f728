"""Ctrl-C and SIGTERM as something to look at, not an exception in mid-air: what runs must be stopped in order."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked to stop
    """A signal to stop came."""


class Interrupt:
    """Counts the signals that came while it was entered: one stops, two hurry."""

    def __init__(self) -> None:
        self.count = 0
        self._came = threading.Event()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def pause(self, seconds: float) -> None:
        """Sleep, or raise Interrupted as soon as a signal has come."""
        if self._came.wait(seconds):
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._came.set()
