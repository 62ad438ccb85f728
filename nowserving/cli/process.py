"""One child process of `up`: in a process group of its own, on a leash, its output read line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from nowserving.cli import leash

Write = Callable[[str, str], None]
"""Takes the name of a part and a line of its output; called from any thread."""


class Process:
    """Runs from its creation on. Create it on the main thread: Linux pulls the leash when the creating thread ends."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path, write: Write) -> None:
        self.name = name
        self.started_at = time.monotonic()
        self.last_lines: deque[str] = deque(maxlen=20)
        self._write = write
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=folder,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its id, and that of its group."""
        return self._child.pid

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._child.poll()

    def terminate(self) -> None:
        """Ask it alone to stop: what it has started is its own to stop."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGTERM)

    def clear(self) -> None:
        """Kill what is left of it and its group, and read its output to the end."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait()
        self._reader.join(timeout=2)
        if not self._reader.is_alive() and self._child.stdout:
            self._child.stdout.close()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for raw in self._child.stdout:
            line = raw.decode(errors="replace").rstrip()
            if line:
                self.last_lines.append(line)
                self._write(self.name, line)


def describe_exit(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
