"""The storm: a crowd of clients at a site of real processes, all faults at random moments, and the verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nowserving.job import new_job_id
from nowserving.store import Store, connect
from tests.api_process import ApiProcess
from tests.chaos.crowd import Crowd
from tests.chaos.faults import Faults, Site
from tests.chaos.verdict import Verdict, judge
from tests.invariant import Observer
from tests.proxy import CuttingProxy
from tests.redis_server import RedisServer
from tests.worker_process import WorkerProcess, noop, ready

WORKERS = 3
SLOTS = 4
TOKEN_SECONDS = 0.03
LEASE_SECONDS = 2
# So that no strike-out hides a fault.
SETTINGS = {"lease_seconds": LEASE_SECONDS, "max_attempts": 100, "max_takes": 1000}


class WitnessedWorker(WorkerProcess):
    """A worker whose claims have a witness."""

    app = "tests.chaos.witnessed"


@dataclass(frozen=True)
class Storm:
    """How much of it. `jobs` is the least number: they go on coming until all faults are over."""

    jobs: int
    faults: int
    seed: int
    clients: int = 40
    patience_seconds: float = 120
    """How long after the last fault every job may take to end."""

    def blow(self, folder: Path) -> Verdict:
        """Run it, with all data and logs in the folder."""
        began = time.monotonic()
        site = start_site(folder, self.seed)
        store = Store(connect(site.redis.url))
        try:
            _wait_until_ready(store)
            api = site.api
            assert isinstance(api, ApiProcess)
            crowd = Crowd(api.url, self.seed, self.jobs, self.clients)
            faults = Faults(site, self.seed, LEASE_SECONDS)
            with Observer(Store(connect(site.redis.url)), crowd.accepted, pause_seconds=0.05) as observer:
                crowd.run(lambda: faults.run(self.faults), self.patience_seconds)
            faults.look()
            verdict = judge(store, crowd.tales)
        finally:
            store.close()
            site.close()
        verdict.blame("jobs in two places or none", observer.wrong)
        verdict.blame("answers that no client should get", crowd.unexpected)
        verdict.blame("processes dead by themselves", faults.died)
        struck = {f"faults: {kind}": count for kind, count in sorted(faults.counts.items())}
        struck |= {"… connections killed": faults.connections_killed, "… replies cut": site.proxy.cuts}
        verdict.shown = {
            "seed": self.seed,
            "seconds": round(time.monotonic() - began),
            **verdict.shown,
            "faults": faults.counts.total(),
            **struck,
            "looks at all jobs' places": observer.looks,
        }
        return verdict


def start_site(folder: Path, seed: int) -> Site:
    """Redis, a proxy before it, and behind that the API and the workers, which may not be ready yet."""
    data = folder / f"redis-{new_job_id()}"
    data.mkdir()
    redis = RedisServer(data)
    redis.start()
    proxy = CuttingProxy(redis.port, seed)
    catalog = noop(SLOTS, f"noop:1000@{TOKEN_SECONDS}")
    api = ApiProcess(proxy.url, folder, catalog, **SETTINGS)
    workers = [WitnessedWorker(proxy.url, folder, catalog, **SETTINGS) for _ in range(WORKERS)]
    site = Site(redis, proxy, api, workers)
    try:
        for process in site.processes:
            process.start()
    except BaseException:
        site.close()
        raise
    return site


def _wait_until_ready(store: Store) -> None:
    until = time.monotonic() + 60
    while not ready(store, WORKERS):
        assert time.monotonic() < until, "the workers are not ready"
        time.sleep(0.05)
