"""What the demo plays on: a screen, a stack, the user's Ctrl-C and a time by which it must be over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from nowserving.cli.failure import PartError
from nowserving.cli.interrupt import Interrupt
from nowserving.cli.stack import Stack


@dataclass(frozen=True, slots=True)
class Stage:
    """Handed to each half of the demo; `deadline` is monotonic seconds."""

    console: Console
    stack: Stack
    interrupt: Interrupt
    deadline: float

    def tick(self, seconds: float) -> None:
        """Look after the stack, then sleep. Raises PartError, also when the time is up, or Interrupted."""
        self.stack.check()
        if time.monotonic() > self.deadline:
            raise PartError("the jobs did not end in time")
        self.interrupt.pause(seconds)

    @contextmanager
    def busy(self, sentence: str) -> Iterator[None]:
        """Say what is waited for, while it is."""
        if self.console.is_terminal:
            with self.console.status(sentence):
                yield
        else:
            self.console.print(sentence)
            yield
