"""What all streams of server-sent events have in common."""

from __future__ import annotations

from api.front import Front
from nowserving import verb
from nowserving.errors import JobNotFoundError, NowservingError

PING_SECONDS = 15
IDLE_SECONDS = 30.0
"""After so long without an event one looks whether the job is still there."""
SEND_SECONDS = 60.0
"""A reader that takes in nothing for so long is let go."""


async def forgotten(front: Front, job_id: str) -> bool:
    """Whether the job is not there any more; while Redis is away nobody knows, and it is not."""
    try:
        await front.store.run(verb.look(job_id))
    except JobNotFoundError:
        return True
    except NowservingError:
        return False
    return False
