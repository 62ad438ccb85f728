"""The faults of the worst day, struck at random moments at a site of real processes."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import redis

from nowserving.job import new_job_id
from tests.child_process import ChildProcess
from tests.proxy import CuttingProxy
from tests.redis_server import RedisServer

GAP_SECONDS = (0.3, 2.5)
"""From one fault to the next; what a fault brings with it may last longer."""


@dataclass(frozen=True)
class Site:
    """What can be struck. All that the API and the workers say to Redis goes through the proxy."""

    redis: RedisServer
    proxy: CuttingProxy
    api: ChildProcess
    workers: Sequence[ChildProcess]

    @classmethod
    def start(cls, folder: Path, seed: int, make: Callable[[str], tuple[ChildProcess, Sequence[ChildProcess]]]) -> Self:
        """Start Redis, the proxy, and what `make` makes for the proxy's address: an API and workers."""
        data = folder / f"redis-{new_job_id()}"
        data.mkdir()
        redis_server = RedisServer(data)
        redis_server.start()
        proxy = CuttingProxy(redis_server.port, seed)
        api, workers = make(proxy.url)
        site = cls(redis_server, proxy, api, workers)
        try:
            for process in site.processes:
                process.start()
        except BaseException:
            site.close()
            raise
        return site

    @property
    def processes(self) -> list[ChildProcess]:
        return [self.api, *self.workers]

    def close(self) -> None:
        """Kill all of it."""
        for process in self.processes:
            process.kill()
        self.redis.kill()
        self.proxy.close()


class Faults:
    """Strikes each kind equally often, in an order and at moments that the seed decides."""

    def __init__(self, site: Site, seed: int, lease_seconds: float) -> None:
        self.counts: Counter[str] = Counter()
        self.connections_killed = 0
        self.died: list[str] = []
        """Processes found dead that no fault has killed."""
        self._site, self._lease_seconds = site, lease_seconds
        self._choose = random.Random(seed)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._down: set[ChildProcess] = set()
        self._suspended: set[ChildProcess] = set()
        self._kinds: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._kill(site.workers),
            "worker suspended": self._suspend,
            "API killed": lambda: self._kill([site.api]),
            "all connections killed": self._kill_connections,
            "Redis killed": self._kill_redis,
            "replies cut": self._cut_replies,
        }

    def run(self, count: int) -> None:
        """Strike so many times; returns when all is up again."""
        for kind in itertools.islice(self._shuffled(), count):
            self._pause(self._choose.uniform(*GAP_SECONDS))
            self.look()
            self._kinds[kind]()
            self.counts[kind] += 1
        while self._later:
            self._pause(0.1)
        self.look()

    def look(self) -> None:
        """Note which processes have died by themselves, and start them again as Kubernetes would."""
        for process in self._site.processes:
            if not process.alive and process not in self._down:
                self.died.append(f"{process.log.name}: {process.output()[-1500:]}")
                process.start()

    def table(self) -> dict[str, object]:
        """How often each kind has struck."""
        struck = {f"… {kind}": count for kind, count in sorted(self.counts.items())}
        cuts = {"… connections killed": self.connections_killed, "… replies lost": self._site.proxy.cuts}
        return {"faults": self.counts.total(), **struck, **cuts}

    def _shuffled(self) -> Iterator[str]:
        while True:
            yield from self._choose.sample(sorted(self._kinds), len(self._kinds))

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._order), action))

    def _pause(self, seconds: float) -> None:
        """Wait, and do what falls due meanwhile."""
        until = time.monotonic() + seconds
        while self._later and self._later[0][0] <= until:
            due, _, action = heapq.heappop(self._later)
            time.sleep(max(0.0, due - time.monotonic()))
            action()
        time.sleep(max(0.0, until - time.monotonic()))

    def _one_of(self, processes: Sequence[ChildProcess], but: set[ChildProcess]) -> ChildProcess:
        while not (left := [process for process in processes if process not in but]):
            self._pause(0.1)
        return self._choose.choice(left)

    def _kill(self, processes: Sequence[ChildProcess]) -> None:
        """One that runs, or starts, or is suspended; started again a moment later."""
        process = self._one_of(processes, self._down)
        process.kill()
        self._down.add(process)

        def start() -> None:
            self._down.discard(process)
            process.start()

        self._after(self._choose.uniform(0, 1), start)

    def _suspend(self) -> None:
        process = self._one_of(self._site.workers, self._down | self._suspended)
        process.suspend()
        self._suspended.add(process)

        def resume() -> None:
            self._suspended.discard(process)
            process.resume()

        self._after(self._lease_seconds * self._choose.uniform(1.1, 2), resume)

    def _kill_connections(self) -> None:
        with redis.Redis(port=self._site.redis.port) as client:
            for kind in ("normal", "pubsub"):
                killed = client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                assert isinstance(killed, int)
                self.connections_killed += killed

    def _kill_redis(self) -> None:
        self._site.redis.kill()
        self._pause(self._choose.uniform(0, 3))
        self._site.redis.start()

    def _cut_replies(self) -> None:
        self._site.proxy.rate = self._choose.uniform(0.02, 0.3)

        def stop() -> None:
            self._site.proxy.rate = 0.0

        self._after(self._choose.uniform(0.5, 2), stop)
