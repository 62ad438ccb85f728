"""How far the start of a worker's engine has come: for the log, for others to see, and in seconds a phase."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

WORDS = {
    "import": "importing",
    "download": "downloading",
    "convert": "converting",
    "load": "loading",
    "warm-up": "warming up",
}
SAY_SECONDS = 2.0
"""The log is told of a fraction at most so often, and of a tenth more at least; of less after QUIET_SECONDS."""
QUIET_SECONDS = 15.0
SHOW_SECONDS = 0.5
"""How often others are told at most."""


class Loading:
    """Notes what the engine reports, from any thread. `changed` is called when others should know."""

    def __init__(self, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._changed, self._clock = changed, clock
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._phase = ""
        self._fraction: float | None = None
        self._since = self._shown_at = self._said_at = clock()
        self._said = 0.0

    def note(self, phase: str, fraction: float | None = None) -> None:
        """The engine is in this phase ("": in none), and so much of it is done; see engine.Progress."""
        with self._lock:
            now = self._clock()
            begins = phase != self._phase
            if begins:
                if self._phase:
                    self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
                self._phase, self._since, self._said, self._said_at = phase, now, 0.0, now
            self._fraction = fraction
            says = fraction is not None and not begins and self._is_news(fraction, now)
            if says and fraction is not None:
                self._said, self._said_at = fraction, now
            shows = begins or now - self._shown_at >= SHOW_SECONDS
            if shows:
                self._shown_at = now
        if says:
            log.info("%s", self.detail)
        if shows:
            self._changed()

    @property
    def detail(self) -> str:
        """In words, such as "loading 43%"; "" between the phases."""
        phase, fraction = self._phase, self._fraction
        word = WORDS.get(phase, phase)
        return word if fraction is None or not word else f"{word} {int(100 * fraction)}%"

    @property
    def seconds(self) -> dict[str, float]:
        """What each phase that is over took, in their order."""
        with self._lock:
            return {phase: round(seconds, 2) for phase, seconds in self._seconds.items()}

    def __str__(self) -> str:
        """All phases that are over, such as "import 2.1 s, load 3.0 s, warm-up 0.4 s"."""
        return ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())

    def _is_news(self, fraction: float, now: float) -> bool:
        quiet_seconds = now - self._said_at
        enough = fraction >= self._said + 0.1 and quiet_seconds >= SAY_SECONDS
        return enough or (fraction > self._said and quiet_seconds >= QUIET_SECONDS)
