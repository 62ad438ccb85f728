"""No server fills the worker's memory by an answer, or an event, without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from workers.engines.openai_meter import MOST_BYTES, Meter, measure

PIECE = b"x" * 1_000_000


class Endless(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield PIECE


def answer(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, stream=Endless())


def test_an_answer_without_end_breaks_off() -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(answer), event_hooks={"response": [measure]}
        ) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="more than 8000000 bytes"):
                await client.get("http://server/health")

    asyncio.run(ask())


def test_a_stream_may_go_on_as_long_as_its_events_are_small() -> None:
    async def read() -> int:
        meter, pieces = Meter(Endless()), 0
        async for _ in meter:
            pieces += 1
            if pieces == 3 * MOST_BYTES // len(PIECE):
                break
            meter.begin()
        return pieces

    assert asyncio.run(read()) == 24
