"""What Redis means when it refuses: each error of redis-py by its code, and as one of ours."""

from __future__ import annotations

import logging
import re

import redis

from nowserving.errors import NowservingError, StoreFullError, StoreUnavailableError
from nowserving.primary import ReplicaError

log = logging.getLogger(__name__)

FULL = "OOM"
FORGOTTEN = "NOSCRIPT"
DEMOTED = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})
"""What a server answers that is no primary any more, or just stops to be one: another is by now."""
PASSING = DEMOTED | {FORGOTTEN, "LOADING", "NOREPLICAS", "MISCONF", "BUSY"}
"""What goes away by itself: a failover, a start, a missing replica, a full disk, a script that still runs."""

# A script's error comes with the code in front, or before Redis 7 with ": -CODE" somewhere in a longer sentence.
_CODE = re.compile(r"(?:^|: -)([A-Z]+) ")


def code_of(error: object) -> str:
    """Redis's code of a refusal; '' for anything else."""
    if not isinstance(error, redis.ResponseError):
        return ""
    code = getattr(error, "status_code", None)
    if code and code != "ERR":
        # redis-py has cut it off the text.
        return str(code)
    found = _CODE.search(str(error))
    return found[1] if found else ""


def is_away(error: Exception) -> bool:
    """Whether it is about Redis or the way there, not about what was to be sent."""
    return isinstance(error, redis.RedisError | OSError) and not isinstance(error, redis.DataError)


def explain(error: Exception) -> NowservingError:
    """Turn an error of redis-py into one of ours."""
    code = code_of(error)
    if not is_away(error):
        log.error("a call could not be sent: %r", error)
        return NowservingError(f"a call could not be sent: {error}")
    if code == FULL:
        return StoreFullError("Redis has reached its maxmemory and takes no more jobs for now")
    if isinstance(error, redis.ResponseError) and code not in PASSING:
        log.error("Redis refused a script: %s", error)
        return NowservingError(f"Redis refused a script: {error}")
    if isinstance(error, ReplicaError):
        return StoreUnavailableError(str(error), answered=True)
    return StoreUnavailableError("Redis does not answer for now", isinstance(error, redis.ResponseError))
