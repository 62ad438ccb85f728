"""Under load, with workers that die and jobs that are canceled, the reconciler finds nothing to mend."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from nowserving import verb
from nowserving.answer import Suspect, Unfit
from nowserving.errors import JobFinishedError, JobNotFoundError
from nowserving.job import Status, Submission, fields_of, new_job_id
from nowserving.store import Store, connect
from tests.api_server import ApiServer
from tests.worker_process import MODEL, WorkerProcess, noop, ready, statuses

Eventually = Callable[..., None]

ALWAYS = 1e12
SECONDS = 3.0


class Rounds(threading.Thread):
    """Reconciles without a pause, in pages of changing size."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.mended: list[tuple[str, str]] = []
        self._store = Store(connect(redis_url))
        self._stopping = threading.Event()

    def __enter__(self) -> Rounds:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join(10)
        self._store.close()

    def run(self) -> None:
        cursor = ""
        while not self._stopping.is_set():
            limit = 200 if self.done % 2 else 7
            page = self._store.run(verb.reconcile("test", [MODEL], cursor, limit=limit))
            assert page is not None
            self.mended += page.mended
            cursor = page.cursor
            self.done += not cursor


class Hand(threading.Thread):
    """Does at random what clients, workers and their deaths do, through the store's verbs."""

    def __init__(self, redis_url: str, seed: int, ids: list[str]) -> None:
        super().__init__(daemon=True)
        self.acts = 0
        self.failure: Exception | None = None
        self._ids = ids
        self._random = random.Random(seed)
        self._store = Store(connect(redis_url))
        self._until = time.monotonic() + SECONDS
        self._begin_anew()

    def _begin_anew(self) -> None:
        """As another worker; what the last one held is left to its leases."""
        self._name = secrets.token_hex(4)
        self._held: dict[str, tuple[str, int]] = {}

    def run(self) -> None:
        try:
            while time.monotonic() < self._until:
                self._act()
                self.acts += 1
        except Exception as error:
            self.failure = error
        finally:
            self._store.close()

    def _act(self) -> None:
        choose, store = self._random, self._store
        act = choose.random()
        if act < 0.25:
            self._submit()
        elif act < 0.45:
            self._take()
        elif act < 0.55:
            self._renew()
        elif act < 0.6:
            store.run(verb.reap("test", [MODEL], period_seconds=0, max_attempts=3, reap_until=ALWAYS))
        elif act < 0.65 and self._ids:
            with suppress(JobFinishedError, JobNotFoundError):
                store.run(verb.cancel(choose.choice(self._ids)))
        elif act < 0.66:
            store.run(verb.leave(MODEL, self._name))
            self._begin_anew()
        elif act < 0.68:
            self._begin_anew()
        elif self._held:
            self._work(*choose.choice(list(self._held.items())))

    def _submit(self) -> None:
        lane = self._random.choice(["normal", "batch"])
        body = {"model": MODEL, "input": {"prompt": "hi"}, "lane": lane, "retain_seconds": self._random.choice([1, 60])}
        fields = fields_of(Submission.model_validate(body), 1)
        start = self._random.choice([None, 0.05, 60])
        self._ids.append(new_job_id())
        self._store.run(verb.enqueue(self._ids[-1], MODEL, fields, max_depth=10**6, start_within_seconds=start))

    def _take(self) -> None:
        claims = [secrets.token_hex(8) for _ in range(self._random.randint(1, 3))]
        sent = verb.take(
            MODEL,
            self._name,
            claims,
            lease_seconds=0.1,
            headroom=10**6,
            capacity=10**6,
            max_takes=self._random.choice([3, 99]),
        )
        taken = self._store.run(sent)
        if not isinstance(taken, Unfit | Suspect):
            self._held.update({one.claim: (one.job_id, 0) for one in taken})

    def _renew(self) -> None:
        beat = verb.renew(
            MODEL,
            self._name,
            self._held,
            lease_seconds=0.1,
            draining=self._random.random() < 0.2,
            blocked=self._random.random() < 0.2,
            reap_until=self._random.choice([0, ALWAYS]),
            max_attempts=3,
            info={"slots": 8},
        )
        for claim in self._store.run(beat).lost:
            self._held.pop(claim, None)

    def _work(self, claim: str, held: tuple[str, int]) -> None:
        job_id, made = held
        act = self._random.random()
        if act < 0.2:
            self._store.run(verb.begin(job_id, claim, 1, anew=act < 0.05))
            return
        if act < 0.5:
            if self._store.run(verb.append(job_id, claim, made, [1], "a")):
                self._held[claim] = (job_id, made + 1)
            return
        del self._held[claim]
        if act < 0.8:
            self._store.run(verb.finish(job_id, claim, Status.SUCCEEDED, {"text": ""}, begun=1))
        else:
            charges: tuple[verb.Charge, ...] = ("refund", "keep", "charge")
            charge = self._random.choice(charges)
            self._store.run(verb.release(job_id, claim, "test", charge=charge, max_attempts=3))


@pytest.mark.parametrize("seed", [1, 2])
def test_all_verbs_at_once_leave_nothing_to_mend(redis_url: str, seed: int) -> None:
    ids: list[str] = []
    hands = [Hand(redis_url, 10 * seed + i, ids) for i in range(4)]
    with Rounds(redis_url) as rounds:
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join(60)
    assert [hand.failure for hand in hands] == [None] * 4
    assert rounds.mended == []
    assert rounds.done > 10
    print(f"{len(ids)} jobs, {sum(hand.acts for hand in hands)} acts, {rounds.done} rounds: nothing mended")


@pytest.mark.timeout(180)
def test_killed_workers_and_canceled_jobs_leave_nothing_to_mend(
    redis_url: str, live: Store, start_api: Callable[..., ApiServer], tmp_path: Path, eventually: Eventually
) -> None:
    api = start_api(redis_url, lease_seconds=1, max_attempts=100)
    settings = {"lease_seconds": 1, "max_attempts": 100, "max_takes": 1000}
    catalog = noop(slots=4, source="noop:10@0.02")
    workers = [WorkerProcess(redis_url, tmp_path, catalog, **settings) for _ in range(3)]
    try:
        with Rounds(redis_url) as rounds:
            for worker in workers[:2]:
                worker.start()
            parameters = {"max_new_tokens": 10}
            ids = [api.submit_id(parameters=parameters, retain_seconds=600) for _ in range(150)]
            eventually(lambda: ready(live, 2), 40)
            eventually(lambda: statuses(live, ids).get("running", 0) >= 4, 20)
            for job_id in ids[::10]:
                api.http.post(f"/v1/jobs/{job_id}/cancel")
            workers[0].kill()
            ids += [api.submit_id(parameters=parameters) for _ in range(50)]
            workers[2].start()
            eventually(
                lambda: sum(statuses(live, ids).get(status, 0) for status in ("succeeded", "canceled")) == 200, 90
            )
    finally:
        for worker in workers:
            worker.kill()
    assert statuses(live, ids)["canceled"] > 0
    assert rounds.mended == []
    assert rounds.done > 10
    assert api.http.get("/v1/queues").json()["mended"] == {}
    retaken = sum(int(live.client.hget(f"nowserving:job:{job_id}", "takes") or 0) > 1 for job_id in ids)
    assert retaken > 0, "the kill has hit no running job"
    print(f"{len(ids)} jobs, {retaken} taken again, {rounds.done} rounds: nothing mended")
