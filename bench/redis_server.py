"""A Redis server for one stack, on a free port, with its data in a folder on disk."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import redis

from bench.process import Process, wait_until
from nowserving.cli.port import find_free_port
from tests.redis_server import find_program

DEFAULT: Sequence[str] = ()
"""What `redis-server` does by itself: snapshots now and then, no append-only file."""
DURABLE: Sequence[str] = ("--appendonly", "yes", "--appendfsync", "always")
"""What nowserving ships: every accepted job is on disk before it is answered."""


class RedisServer:
    """One server; it answers once `start` has returned."""

    def __init__(self, folder: Path) -> None:
        self.port = find_free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)
        self._folder = folder
        self._process: Process | None = None

    def start(self, persistence: Sequence[str]) -> None:
        """Run it, with its data in the folder."""
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._process = Process("redis", [str(find_program()), *where, *persistence], self._folder, {})
        wait_until(self._answers, "answering", 20, [self._process])

    def tree(self) -> list[psutil.Process]:
        """Its process, and one that writes a snapshot at times."""
        return self._process.tree() if self._process is not None else []

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        """End it."""
        self.client.close()
        if self._process is not None:
            self._process.stop()


def version() -> str:
    """What the server says it is, such as `Redis 7.0.15`."""
    said = subprocess.run([str(find_program()), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(\w+) server v=(\S+)", said)
    return f"{found[1]} {found[2]}" if found else said.strip()
