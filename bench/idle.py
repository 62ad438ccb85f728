"""What an idle worker asks of Redis, seen by MONITOR: the commands that its own connections send."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

from bench.errors import BenchError
from bench.stack import Stack

_LINE = re.compile(rb"\+[\d.]+ \[\d+ (?:lua|.*?:(\d+))\] ")
"""A command's line: its client's port, or `lua` for what a script did inside Redis, which no client sent."""


async def count_commands_per_second(stack: Stack, seconds: float) -> float:
    """Watch a stack without jobs for so long."""
    ports = _worker_ports(stack)
    by_port = await _monitor(stack.redis.port, seconds)
    ports |= _worker_ports(stack)
    if not ports:
        raise BenchError(f"{stack.name}: the worker has no connection to Redis")
    return sum(by_port[port] for port in ports) / seconds


async def _monitor(port: int, seconds: float) -> Counter[int]:
    """Commands by the port of the client that sent them."""
    by_port: Counter[int] = Counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        writer.write(b"MONITOR\r\n")
        if await reader.readline() != b"+OK\r\n":
            raise BenchError("Redis does not let itself be monitored")
        async with asyncio.timeout(seconds):
            while line := await reader.readline():
                match = _LINE.match(line)
                if match and match[1]:
                    by_port[int(match[1])] += 1
        raise BenchError("Redis ended while it was monitored")
    except TimeoutError:
        return by_port
    finally:
        writer.close()


def _worker_ports(stack: Stack) -> set[int]:
    """Local ports of the worker's connections to its Redis."""
    return {
        connection.laddr.port
        for process in stack.worker()
        for connection in process.net_connections("tcp")
        if getattr(connection.raddr, "port", None) == stack.redis.port
    }
