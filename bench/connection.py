"""A keep-alive HTTP/1.1 connection with nothing to spare, so that the load generator is never what is measured.

A job submitted costs the generator some 22 us of CPU, against 90 us with aiohttp and milliseconds with httpx (32 at
once, uvloop): it reads the status and a body of known length, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body read as a JSON object."""
        document: dict[str, Any] = json.loads(self.body)
        return document


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, host: str) -> None:
        self._host = host.encode()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None

    async def get(self, path: str) -> Answer:
        """Send GET and wait for the answer."""
        return await self._exchange(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path.encode(), self._host))

    async def post(self, path: str, body: bytes, headers: str = "") -> Answer:
        """Send POST with a JSON body and wait for the answer; `headers` are whole lines, each with its CRLF."""
        head = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
        return await self._exchange(head % (path.encode(), self._host, len(body), headers.encode()) + body)

    async def _exchange(self, request: bytes) -> Answer:
        if self._transport is None or self._transport.is_closing():
            raise BenchError("the API closed a connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio.Protocol)."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Read on; an answer is complete when its Content-Length is there (asyncio.Protocol)."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        name = head.find(b"\r\ncontent-length:")
        if name < 0:
            self._fail(f"an answer without Content-Length: {head!r}")
            return
        length_bytes = int(head[name + 17 :].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length_bytes:
            return
        answer = Answer(int(head[9:12]), bytes(self._received[end + 4 : end + 4 + length_bytes]))
        del self._received[: end + 4 + length_bytes]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request under way (asyncio.Protocol)."""
        self._fail(f"the API closed a connection: {exc}")

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BenchError(why))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


async def connect(port: int, count: int) -> Sequence[Connection]:
    """Open `count` connections to a port of this machine."""
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(f"127.0.0.1:{port}"), "127.0.0.1", port) for _ in range(count)
    ]
    return [connection for _, connection in opened]
