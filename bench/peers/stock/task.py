"""The Celery app, set to keep jobs: acknowledged when done, given to another worker after a visibility timeout."""

# mypy: disable-error-code="untyped-decorator"

import os
import time
from typing import Any

from celery import Celery

TOKEN_SECONDS = 0.03
VISIBILITY_SECONDS = 6
"""Two and a half times the longest job; shorter would run jobs again that are well."""

app = Celery("task", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    result_backend_always_retry=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_SECONDS,
        # By default it looks for lost messages every 100 s.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker that dies while it looks keeps all others from it for so long: 300 s by default.
        "unacked_mutex_expire": 10,
    },
)


@app.task(bind=True)
def generate(self: Any, tokens: int) -> dict[str, object]:
    """Make words at the pace of the noop engine; beginning and end go into a file that no fault touches."""
    _note(f"{self.request.id} began")
    words = []
    for index in range(tokens):
        time.sleep(TOKEN_SECONDS)
        words.append(f"w{index}")
    _note(f"{self.request.id} ended")
    return {"text": " ".join(words)}


def _note(line: str) -> None:
    with open(os.environ["EFFECTS_FILE"], "a") as file:
        file.write(line + "\n")
