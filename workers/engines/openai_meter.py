"""What a server may send at once: an answer, or an event of a stream, without end would fill the worker's memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import httpx

MOST_BYTES = 8_000_000


class Meter(httpx.AsyncByteStream):
    """A body that breaks off after MOST_BYTES, counted from the last `begin`."""

    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self._body, self._bytes = body, 0

    def begin(self) -> None:
        """What was taken in so far was good."""
        self._bytes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._body:
            self._bytes += len(piece)
            if self._bytes > MOST_BYTES:
                raise httpx.RemoteProtocolError(f"the server sends more than {MOST_BYTES} bytes at once")
            yield piece

    async def aclose(self) -> None:
        """See httpx."""
        await self._body.aclose()


async def measure(response: httpx.Response) -> None:
    """Let the response's body be counted: a hook of httpx, called before it is read."""
    response.stream = Meter(cast(httpx.AsyncByteStream, response.stream))
