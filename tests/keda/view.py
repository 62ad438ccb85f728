"""What the workers say of themselves in Redis, by process id: a worker's name has it in the middle."""

from __future__ import annotations

import redis

from nowserving import keys, verb
from nowserving.store import Store


class View:
    """Of one model's workers."""

    def __init__(self, store: Store, model: str) -> None:
        self._store, self._model = store, model

    def ready(self) -> set[int]:
        """Whose model is loaded, as the readiness probe would learn from each; none while Redis does not answer."""
        workers = self._store.run(verb.workers([self._model]))
        return {_pid(str(worker["name"])) for worker in workers if worker["state"] in ("ready", "draining")}

    def busy(self) -> set[int]:
        """Who has jobs and does not drain."""
        names = _words(self._store.client, keys.BUSY + self._model)
        return {_pid(name) for name in names}


def _words(client: redis.Redis, key: str) -> list[str]:
    return [str(name) for name in client.hkeys(key)]


def _pid(name: str) -> int:
    return int(name.split(":")[1])
