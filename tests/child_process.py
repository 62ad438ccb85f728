"""A real process that tests start, stop, kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parent.parent


class ChildProcess:
    """One command as the head of a process group of its own; all its lives write to one log."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.root = ROOT
        """The checkout whose code it runs."""
        self._command = list(command)
        self._env = {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; it is not ready yet."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**self._env, "PYTHONPATH": str(self.root)},
                cwd=self.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def suspend(self) -> None:
        """Stop the whole group where it is."""
        if self.alive:
            os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the group go on; harmless if it was never stopped, or is another one by now."""
        if self.alive:
            os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9 of the whole group, and wait until it is gone."""
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def wait(self, seconds: float) -> int:
        """Wait for its end; the exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def wait_for_log(self, text: str, seconds: float) -> None:
        """Wait until this text is in the log."""
        until = time.monotonic() + seconds
        while text not in self.output():
            waits = self.alive and time.monotonic() < until
            assert waits, f"no {text!r} in {self.log}:\n{self.output()[-2000:]}"
            time.sleep(0.02)

    def output(self) -> str:
        """What it has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        if kind is not None:
            print(f"--- {self.log.name}\n{self.output()}")
