"""`nowserving up` as a child process for tests, and a way to find everything it has started."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from tests.redis_server import PROGRAM, find_program

ROOT = Path(__file__).parent.parent
MARK = "NOWSERVING_TEST_MARK"
NOOP = '[models.noop]\nengine = "noop"\nslots = 2\n'


class UpProcess:
    """`nowserving up` with everything in a folder, on a free port. Each of its processes carries a mark."""

    def __init__(self, folder: Path, *arguments: str, models: str = NOOP, **env: str) -> None:
        self.folder = folder
        self.output = ""
        models_file = folder / "models.toml"
        models_file.write_text(models)
        defaults = {
            "NOWSERVING_DATA_DIR": str(folder / "data"),
            "NOWSERVING_MODELS_FILE": str(models_file),
            "NOWSERVING_PORT": "0",
            "NOWSERVING_DRAIN_SECONDS": "5",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nowserving.cli", "up", *arguments],
            env={**make_env(folder), **defaults, **env},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """Where its API is; waits until all is up."""
        eventually(lambda: "nowserving is up at " in self.output or not self.running, 60)
        assert self.running, self.output
        return self.output.split("nowserving is up at ")[1].split()[0]

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send `up` alone a signal, as a shell's `kill` does."""
        self._process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        """Wait for its end; the exit code."""
        code = self._process.wait(seconds)
        self._reader.join(seconds)
        return code

    def children(self) -> dict[int, str]:
        """Everything it has started that still runs: process id and command line."""
        return {pid: command for pid, command in find_started(self.folder).items() if pid != self.pid}

    def find(self, words: str) -> int:
        """The process of whose command line `words` are part."""
        [pid] = [pid for pid, command in self.children().items() if words in command]
        return pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pid in find_started(self.folder):
            os.kill(pid, signal.SIGKILL)
        self.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line


def make_env(folder: Path) -> Mapping[str, str]:
    """The environment without settings of whoever runs the tests, and with a mark by which processes are found.

    If the tests are to run on a server of their own, it is the only program on the PATH.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("NOWSERVING_")}
    path = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    if os.environ.get(PROGRAM):
        env["PATH"] = _path_to_program().name
    return {**env, "PYTHONPATH": path, "COLUMNS": "200", MARK: str(folder)}


@cache
def _path_to_program() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="path-")
    atexit.register(folder.cleanup)
    Path(folder.name, find_program().name).symlink_to(find_program())
    return folder


def find_started(folder: Path) -> dict[int, str]:
    """Living processes that inherited the folder's mark or work in it: process id and command line."""
    found = {}
    wanted = f"{MARK}={folder}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # Redis writes its title over its environment, but works in its data folder.
                marked = wanted in (entry / "environ").read_bytes().split(b"\0")
                if marked or folder in (entry / "cwd").readlink().parents:
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                # It has just ended, or is not ours to look at.
                continue
    return found


def eventually(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.02)
