"""The parts' output on one screen, each line behind the name of its part."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

STYLES = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")


class Log:
    """Prints lines from any thread, whole and in order."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self._console = console
        self._width = max(map(len, names))
        self._styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}
        self._lock = threading.Lock()
        self._broken = False

    def write(self, name: str, line: str) -> None:
        """Print one line of a part."""
        prefix = Text(f"{name:<{self._width}} | ", style=self._styles.get(name, "bold"))
        self._print(prefix + Text.from_ansi(line))

    def say(self, sentence: str) -> None:
        """Print a line of our own."""
        self._print(Text(sentence, style="bold"))

    def _print(self, text: Text) -> None:
        with self._lock:
            if self._broken:
                return
            try:
                self._console.print(text, soft_wrap=True)
            except OSError:
                # Nobody reads on; the parts' pipes must be emptied all the same.
                self._broken = True
