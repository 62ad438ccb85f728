"""KEDA's `redis` scaler: how many are in a key, by its type. Follows kedacore/keda pkg/scalers/redis_scaler.go."""

from __future__ import annotations

from collections.abc import Callable

import redis


class ScalerError(Exception):
    """Redis does not answer, or the key is of a type that KEDA cannot count."""


Count = Callable[[str], int]
"""How many are in this key. Raises ScalerError."""


def redis_scaler(client: redis.Redis) -> Count:
    """The scaler for this Redis."""
    commands = {
        "zset": client.zcard,
        "set": client.scard,
        "hash": client.hlen,
        "list": client.llen,
        "none": client.llen,
    }

    def count(key: str) -> int:
        try:
            kind = str(client.type(key))
            if kind not in commands:
                raise ScalerError(f"unsupported key type: {kind}")
            return int(commands[kind](key))
        except redis.RedisError as error:
            raise ScalerError(str(error)) from error

    return count
