"""A real deliverer process for tests."""

from __future__ import annotations

from pathlib import Path

from nowserving import verb
from nowserving.delivery import WEBHOOKS
from nowserving.secret import new_secret
from nowserving.store import Store
from tests.worker_process import WorkerProcess, noop

SECRET = new_secret()


class DelivererProcess(WorkerProcess):
    """A worker of the queue of webhooks, which may send to this machine and tries again soon."""

    model, name = WEBHOOKS, "deliver"

    def __init__(self, redis_url: str, folder: Path, **settings: object) -> None:
        defaults = {
            "webhook_secret": SECRET,
            "webhook_allow": "127.0.0.1",
            "webhook_retry_seconds": "0.2,0.2,0.2",
            "lease_seconds": 2,
        }
        super().__init__(redis_url, folder, noop(), **{**defaults, **settings})


def deliverers(store: Store) -> list[dict[str, object]]:
    """The live deliverers' own descriptions."""
    return store.run(verb.workers([WEBHOOKS]))


def ready(store: Store, count: int = 1) -> bool:
    """Whether so many deliverers are ready."""
    return sum(deliverer["state"] == "ready" for deliverer in deliverers(store)) >= count
