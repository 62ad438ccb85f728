"""A server as the worker's child: its command, an environment of its own, its output in the worker's log, its end."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from nowserving.catalog import PORT
from nowserving.errors import EngineError
from workers.engines import server_leash

log = logging.getLogger(__name__)

PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    *("NVIDIA_DRIVER_CAPABILITIES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "XDG_CACHE_HOME", "HF_HOME"),
)
"""What a server needs to be found, to find its devices and its caches: all that it gets besides the catalog's."""
LINE_CHARACTERS = 500
LINES_PER_SECOND = 50
"""More are left out of the log, and counted."""
OUR_LOOKS = ("GET /health", "GET /metrics")
"""In an access log's line: we ask every second, and that is no news."""
STOP_SECONDS = server_leash.TERM_SECONDS + 2.0
_PASSED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}\Z")


def server_environment(wanted: Mapping[str, str], worker: Mapping[str, str]) -> dict[str, str]:
    """The server's whole environment: the safe part of the worker's, and the catalog's.

    A value `${NAME}` is the worker's variable NAME, so that no secret need stand in the catalog. Raises EngineError.
    """
    made = {name: worker[name] for name in PASSED_ON if name in worker}
    for name, value in wanted.items():
        match = _PASSED.match(value)
        if match and match[1] not in worker:
            raise EngineError(f"environment.{name} is to be {value}, which the worker's environment does not have")
        made[name] = worker[match[1]] if match else value
    return made


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class ServerProcess:
    """Runs from its creation on, with everything it starts in a group that ends with it, or with this process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        """`{port}` is filled with a free port. Raises EngineError if there is no such program."""
        self.port = free_port()
        self.started_at = time.monotonic()
        self.last_lines: deque[str] = deque(maxlen=20)
        self._name = name
        env = {key: value.replace(PORT, str(self.port)) for key, value in environment.items()}
        words = [word.replace(PORT, str(self.port)) for word in command]
        program = shutil.which(words[0], path=env.get("PATH", os.defpath))
        if program is None:
            raise EngineError(f"the server's program {words[0]!r} is not found")
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", server_leash.__file__, program, *words[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # a Ctrl-C in the worker's terminal is the worker's to handle
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    def poll(self) -> str | None:
        """How it ended, with its last words; None while it runs."""
        code = self._child.poll()
        if code is None:
            return None
        self._reader.join(timeout=1)
        killed = code == 128 + signal.SIGKILL or code < 0  # then its last words were about something else
        said = f": {self.last_lines[-1]}" if self.last_lines and not killed else ""
        return f"the server {_describe_exit(code)}{said}"

    def ask_to_stop(self) -> None:
        """The leash sees the end of its input: SIGTERM for the server, then SIGKILL for its whole group."""
        if self._child.stdin and not self._child.stdin.closed:
            self._child.stdin.close()

    def stop(self) -> None:
        """Stop it and wait until it is gone; blocks for up to STOP_SECONDS."""
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            self._child.kill()
        self._child.wait()
        self._reader.join(timeout=1)

    def _read(self) -> None:
        assert self._child.stdout is not None
        second, written, left_out = 0.0, 0, 0
        with self._child.stdout as output:
            # A line that never ends comes in parts.
            while line := output.readline(64 * 1024):
                text = line.decode(errors="replace").strip()[:LINE_CHARACTERS]
                if not text or any(look in text for look in OUR_LOOKS):
                    continue
                self.last_lines.append(text)
                now = time.monotonic()
                if now - second >= 1:
                    if left_out:
                        log.info("%s: … %s lines left out", self._name, left_out)
                    second, written, left_out = now, 0, 0
                if written < LINES_PER_SECOND:
                    log.info("%s: %s", self._name, text)
                    written += 1
                else:
                    left_out += 1


def _describe_exit(code: int) -> str:
    """Say how it ended; the leash says of a signal what a shell would."""
    if code == server_leash.NOT_RUN:
        return "could not be run"
    number = -code if code < 0 else code - 128
    with suppress(ValueError):
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with exit code {code}"
