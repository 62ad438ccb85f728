"""A reader of a job's events that costs little, so that a hundred run beside what they read from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from nowserving.event import is_terminal


class Follower:
    """Follows one job over as many connections as it takes: it hangs up when it has seen so many tokens (`cuts`)."""

    def __init__(self, port: int, job_id: str, cuts: Sequence[int] = ()) -> None:
        self.job_id = job_id
        self.text = ""
        self.tokens: list[int] = []
        """The index of each token, in the order in which they came."""
        self.ends: list[dict[str, Any]] = []
        self.connections = 0
        self._port, self._cuts = port, sorted(cuts)
        self._last_id = ""

    async def run(self) -> None:
        """Follow it to its end. Raises OSError if the API cannot be reached."""
        while not self.ends:
            await self._connect()

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        self.connections += 1
        last = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
        writer.write(f"GET /v1/jobs/{self.job_id}/events HTTP/1.1\r\nHost: x\r\n{last}\r\n".encode())
        kind, said, event_id = "", {}, ""
        try:
            while line := (await reader.readline()).rstrip(b"\r\n").decode():
                # The head.
                assert not line.startswith("HTTP") or line.split()[1] == "200", line
            while line := (await reader.readline()).decode():
                name, _, value = line.rstrip("\r\n").partition(": ")
                if name == "id":
                    event_id = value
                elif name == "event":
                    kind = value
                elif name == "data":
                    said = json.loads(value)
                elif line == "\n" and kind:
                    self._note(kind, said)
                    self._last_id = event_id or self._last_id
                    kind = ""
                    if self.ends or (self._cuts and len(self.tokens) >= self._cuts[0]):
                        self._cuts = self._cuts[1:]
                        return
        except ConnectionError:
            return
        finally:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _note(self, kind: str, said: dict[str, Any]) -> None:
        if kind == "token":
            self.tokens += range(said["index"], said["index"] + len(said["ids"]))
            self.text += said["text"]
        elif is_terminal(kind):
            self.ends.append(said)
