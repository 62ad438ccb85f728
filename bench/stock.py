"""A stock Celery worker under the storm that tests/chaos has for nowserving: the same faults and pace, as many jobs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import httpx

from bench.stack import QUIET_API
from nowserving.cli.port import find_free_port
from nowserving.job import Status
from tests.chaos.crowd import Crowd, Tale, words
from tests.chaos.faults import Faults, Site
from tests.chaos.storm import LEASE_SECONDS, SLOTS, WORKERS, Storm
from tests.child_process import ChildProcess

POLL_SECONDS = 0.2


class StockCrowd(Crowd):
    """Clients that post until they are answered, and then look until there is a result."""

    def __init__(self, url: str, storm: Storm) -> None:
        super().__init__(storm.seed, storm.jobs, storm.clients)
        self.wrong_texts = 0
        self._http = httpx.Client(
            base_url=url, timeout=5, trust_env=False, limits=httpx.Limits(max_connections=storm.clients)
        )

    def live(self, tale: Tale) -> None:
        """See Crowd."""
        while not tale.job_id:
            answer = self._answer("POST", "/jobs", {"tokens": tale.tokens})
            if answer is None:
                return
            tale.job_id = str(answer["task_id"])
        while answer := self._answer("GET", f"/jobs/{tale.job_id}"):
            if answer["task_status"] == "SUCCESS":
                tale.status = Status.SUCCEEDED
                self.wrong_texts += answer["task_result"] != {"text": words(tale.tokens)}
                return
            if answer["task_status"] == "FAILURE":
                tale.status = Status.FAILED
                return
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """See Crowd."""
        self._http.close()

    def _answer(self, method: str, path: str, body: object = None) -> dict[str, object] | None:
        """Try until there is an answer; None if all is given up."""
        while not self.giving_up.is_set():
            try:
                response = self._http.request(method, path, json=body)
                if response.is_success:
                    return dict(response.json())
            except httpx.TransportError:
                pass
            time.sleep(POLL_SECONDS)
        return None


def blow(storm: Storm, folder: Path) -> dict[str, object]:
    """Run the storm; the table's figures."""
    began = time.monotonic()
    effects_file = folder / "effects"
    effects_file.touch()
    port = find_free_port()

    def make(redis_url: str) -> tuple[ChildProcess, list[ChildProcess]]:
        env = {"REDIS_URL": redis_url, "EFFECTS_FILE": str(effects_file)}
        api = [sys.executable, "-m", "uvicorn", "bench.peers.stock.app:app", "--port", str(port), *QUIET_API]
        worker = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "bench.peers.stock.task",
            "worker",
            "-c",
            str(SLOTS),
            "-l",
            "INFO",
        ]
        workers = [
            ChildProcess([*worker, "-n", f"stock-{number}@%h"], env, folder / f"stock-{number}.log")
            for number in range(WORKERS)
        ]
        return ChildProcess(api, env, folder / "api.log"), workers

    site = Site.start(folder, storm.seed, make)
    try:
        for worker in site.workers:
            worker.wait_for_log(" ready.", 60)
        crowd = StockCrowd(f"http://127.0.0.1:{port}", storm)
        faults = Faults(site, storm.seed, LEASE_SECONDS)
        crowd.run(lambda: faults.run(storm.faults), faults.look, site.api.kill, storm.patience_seconds)
    finally:
        site.close()
    accepted = {tale.job_id: tale for tale in crowd.tales if tale.job_id}
    notes = Counter(tuple(line.split()) for line in effects_file.read_text().splitlines())
    begun = {job_id: times for (job_id, what), times in notes.items() if what == "began"}
    ended = {job_id: times for (job_id, what), times in notes.items() if what == "ended"}
    return {
        "seed": storm.seed,
        "seconds": round(time.monotonic() - began),
        **faults.table(),
        "jobs accepted": len(accepted),
        "failed with nothing wrong": sum(tale.status is Status.FAILED for tale in accepted.values()),
        "lost: no result": sum(tale.status is None for tale in accepted.values()),
        "… of these never begun": sum(t.status is None and t.job_id not in begun for t in accepted.values()),
        "doubled: run to the end twice or more": sum(times > 1 for times in ended.values()),
        "doubled: jobs of a repeated POST": len(begun.keys() - accepted.keys()),
        "begun twice or more": sum(times > 1 for times in begun.values()),
        "… times of one job, most": max(begun.values(), default=0),
        "wrong texts": crowd.wrong_texts,
        "processes dead by themselves": len(faults.died),
    }
