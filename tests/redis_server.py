"""A real Redis server for tests, on a free port, durable as in production; it can be stopped and started again.

NOWSERVING_TEST_REDIS_SERVER names its program: another version, or Valkey.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import redis

from nowserving.cli.command import redis_command
from nowserving.cli.port import find_free_port
from nowserving.cli.redis_server import find_server

PROGRAM = "NOWSERVING_TEST_REDIS_SERVER"


def find_program() -> Path:
    """The server that the tests run on."""
    named = os.environ.get(PROGRAM)
    return Path(named) if named else find_server()


class RedisServer:
    """One server process with its data in a folder; the port stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = find_free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running server's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, *options: str) -> None:
        """Start it; returns when it answers."""
        command = redis_command(find_program(), self.port, self._folder)
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *options], stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it as an operator would: SIGTERM."""
        self._end(kill=False)

    def kill(self) -> None:
        """Stop it as a crash would: SIGKILL."""
        self._end(kill=True)

    def suspend(self) -> None:
        """Let it hang: connections stay, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on with what it was sent meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """Forget all data."""
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def configure(self, **values: object) -> None:
        """CONFIG SET while it runs."""
        with redis.Redis(port=self.port) as client:
            for name, value in values.items():
                client.config_set(name.replace("_", "-"), value)

    def follow(self, primary: RedisServer) -> None:
        """Become a replica; returns when it is one, and gets what the primary is told from then on."""
        primary.configure(repl_diskless_sync_delay=0)
        with redis.Redis(port=self.port, decode_responses=True) as client:
            client.replicaof("127.0.0.1", primary.port)
            until = time.monotonic() + 20
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < until, "it does not become a replica"
                time.sleep(0.01)
        with redis.Redis(port=primary.port) as client:
            # The stream begins with the first acknowledgement, up to a second after the link is up.
            client.publish("nobody", "")
            assert client.wait(1, 10_000) == 1, "it does not catch up"

    def hand_over(self, replica: RedisServer) -> None:
        """Make a replica the primary and follow it, as a planned failover does: without a write being lost."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            client.execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)
            until = time.monotonic() + 20
            while client.info("replication")["role"] == "master":
                assert time.monotonic() < until, "it does not hand over"
                time.sleep(0.005)

    def promote(self) -> None:
        """Make a replica a primary, as a failover does, once it has read all that its dead primary had sent."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            until = time.monotonic() + 20
            while client.info("replication")["master_link_status"] == "up":
                assert time.monotonic() < until, "its primary lives"
                time.sleep(0.005)
            client.replicaof("NO", "ONE")

    def clients(self) -> list[str]:
        """The last command of each client, but for replicas, primaries and whoever asks."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            own, listed = client.client_id(), client.client_list()
            return [c["cmd"] for c in listed if not {"M", "S"} & set(c["flags"]) and int(c["id"]) != own]

    def _end(self, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(20)
        self._process = None

    def _answers(self) -> bool:
        with suppress(redis.RedisError, OSError), redis.Redis(port=self.port, socket_timeout=1) as client:
            # Another server may have got the port first.
            return bool(client.info("server")["process_id"] == self.pid)
        return False
