"""The storm: a crowd of clients at a site of real processes, all faults at random moments, and the verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nowserving.store import Store, connect
from tests.api_process import ApiProcess
from tests.chaos.crowd import SdkCrowd
from tests.chaos.faults import Faults, Site
from tests.chaos.verdict import Verdict, judge
from tests.chaos.witness import WitnessedWorker
from tests.invariant import Observer
from tests.worker_process import noop, ready

WORKERS = 3
SLOTS = 4
TOKEN_SECONDS = 0.03
LEASE_SECONDS = 2
# So that no strike-out hides a fault.
SETTINGS = {"lease_seconds": LEASE_SECONDS, "max_attempts": 100, "max_takes": 1000}


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
        catalog = noop(SLOTS, f"noop:1000@{TOKEN_SECONDS}")
        apis: list[ApiProcess] = []

        def make(redis_url: str) -> tuple[ApiProcess, list[WitnessedWorker]]:
            apis.append(ApiProcess(redis_url, folder, catalog, **SETTINGS))
            return apis[0], [WitnessedWorker(redis_url, folder, catalog, **SETTINGS) for _ in range(WORKERS)]

        site = Site.start(folder, self.seed, make)
        store = Store(connect(site.redis.url))
        try:
            _wait_until_ready(store)
            crowd = SdkCrowd(apis[0].url, self.seed, self.jobs, self.clients)
            faults = Faults(site, self.seed, LEASE_SECONDS)
            with Observer(Store(connect(site.redis.url)), crowd.accepted, pause_seconds=0.05) as observer:
                crowd.run(lambda: faults.run(self.faults), faults.look, site.api.kill, self.patience_seconds)
            verdict = judge(store, crowd.tales)
        finally:
            store.close()
            site.close()
        verdict.blame("jobs in two places or none", observer.wrong)
        verdict.blame("answers that no client should get", crowd.unexpected)
        verdict.blame("processes dead by themselves", faults.died)
        about = {"seed": self.seed, "seconds": round(time.monotonic() - began)}
        looks = {"looks at all jobs' places": observer.looks}
        verdict.shown = {**about, **faults.table(), **verdict.shown, **looks}
        return verdict


def _wait_until_ready(store: Store) -> None:
    until = time.monotonic() + 60
    while not ready(store, WORKERS):
        assert time.monotonic() < until, "the workers are not ready"
        time.sleep(0.05)
