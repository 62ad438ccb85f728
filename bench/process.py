"""A stack's processes: each with a log of its own, waited for by a condition, suspended, ended without a trace."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

import psutil

from bench.errors import BenchError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""


class Process:
    """One command with all the processes it starts."""

    def __init__(self, name: str, command: Sequence[str | Path], folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def tree(self) -> list[psutil.Process]:
        """The process and its descendants, parents first; none if it has ended."""
        try:
            parent = psutil.Process(self._popen.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def check(self) -> None:
        """Raise BenchError with the log's end if the process has ended."""
        if self._popen.poll() is not None:
            raise BenchError(f"{self.name} ended with {self._popen.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def stop(self, within_seconds: float = 20) -> None:
        """Ask it to end; kill what is left of its tree after that time."""
        tree = self.tree()
        if self._popen.poll() is None:
            self._popen.terminate()
        _, alive = psutil.wait_procs(tree, timeout=within_seconds)
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._popen.wait()


def suspend(processes: Sequence[psutil.Process]) -> None:
    """Stop processes where they are, parents first, and wait until the kernel says so."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    wait_until(lambda: all(process.status() == psutil.STATUS_STOPPED for process in processes), "suspended", 10)


def resume(processes: Sequence[psutil.Process]) -> None:
    """Let suspended processes go on."""
    for process in reversed(processes):
        process.send_signal(signal.SIGCONT)


def wait_until(
    condition: Callable[[], bool], what: str, within_seconds: float, processes: Sequence[Process] = ()
) -> None:
    """Wait for a condition. Raises BenchError if a process ends meanwhile, or time runs out."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            raise BenchError(f"not {what} within {within_seconds:g} s")
        time.sleep(0.02)


def answers(port: int, path: str) -> bool:
    """Whether an HTTP server on this port answers 200."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        client.request("GET", path)
        return client.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        client.close()
