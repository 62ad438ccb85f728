"""Reads a job's events as they come (SSE), cheaply: a hundred readers share the machine with what is measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from bench.errors import BenchError


async def follow(port: int, job_id: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The type and data of each event to the job's end, on a connection of its own. Raises BenchError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /v1/jobs/%b/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % job_id.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or b"transfer-encoding: chunked" not in head.lower():
            raise BenchError(f"the events of {job_id} were answered with {head!r}")
        received = b""
        while length_bytes := int(await reader.readline(), 16):
            received += (await reader.readexactly(length_bytes + 2))[:-2]
            *events, received = received.split(b"\n\n")
            for event in events:
                fields = dict(line.partition(b": ")[::2] for line in event.split(b"\n"))
                if b"event" in fields:  # a ping has none
                    yield fields[b"event"].decode(), json.loads(fields[b"data"])
    except (OSError, EOFError, ValueError) as error:
        raise BenchError(f"the events of {job_id} ended with {error!r}") from None
    finally:
        writer.close()
