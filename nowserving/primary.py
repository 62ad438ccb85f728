"""Only a primary will do: a replica takes no jobs, and what it tells may be old.

Each new connection resolves the name in Redis's URL anew. So a connection to a replica is never begun, and those to a
server that turns out to be one are given up: the next try goes wherever the name points by then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import redis
import redis.asyncio

log = logging.getLogger(__name__)

REPLICA = ("replica", "slave")


class ReplicaError(redis.ConnectionError):
    """A connection would lead to a replica."""

    def __init__(self) -> None:
        super().__init__("this Redis is a replica; its address must lead to the primary")


def greet(connection: Any) -> None:
    """Begin a connection, as its `redis_connect_func`. Raises ReplicaError."""
    connection.on_connect()
    with suppress(redis.ResponseError):  # of a server that knows no HELLO, or does not allow it
        connection.send_command("HELLO", check_health=False)
        _judge(connection.read_response())


async def greet_async(connection: Any) -> None:
    """As `greet`, for a connection of redis.asyncio."""
    await connection.on_connect()
    with suppress(redis.ResponseError):
        await connection.send_command("HELLO", check_health=False)
        _judge(await connection.read_response())


def leave(client: redis.Redis) -> None:
    """Give up a client's connections: idle ones now, each other when its command is over."""
    log.warning("Redis is no primary any more: looking for a new one at its address")
    client.connection_pool.disconnect(inuse_connections=False)
    client.connection_pool.update_active_connections_for_reconnect()


async def leave_async(client: redis.asyncio.Redis) -> None:
    """As `leave`."""
    log.warning("Redis is no primary any more: looking for a new one at its address")
    await client.connection_pool.disconnect(inuse_connections=False)
    await client.connection_pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]


def _judge(hello: Any) -> None:
    pairs = hello if isinstance(hello, Mapping) else dict(zip(hello[::2], hello[1::2], strict=False))
    role = pairs.get("role", pairs.get(b"role", ""))
    if isinstance(role, bytes):
        role = role.decode()
    if role in REPLICA:
        raise ReplicaError
