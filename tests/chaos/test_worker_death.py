"""Workers die and replies are lost at random moments, while jobs run."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nowserving import verb
from nowserving.errors import StoreUnavailableError
from nowserving.job import Submission, fields_of, new_job_id
from nowserving.store import Store, connect
from tests.invariant import Observer, story
from tests.proxy import CuttingProxy
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, noop, ready, statuses

Eventually = Callable[..., None]

KILLS = int(os.environ.get("NOWSERVING_CHAOS_KILLS", "10"))
SEED = int(os.environ.get("NOWSERVING_CHAOS_SEED", "1"))
TOKENS = 10
CATALOG = noop(slots=4, source=f"noop:{TOKENS}@0.02")
PARAMETERS = {"max_new_tokens": TOKENS}
SETTINGS = {"lease_seconds": 1, "max_attempts": 100, "max_takes": 1000}


@pytest.fixture
def live(redis_url: str) -> Iterator[Store]:
    store = Store(connect(redis_url))
    yield store
    store.close()


def all_told_once(store: Store, ids: list[str]) -> None:
    for job_id in ids:
        output = look(store, job_id).output
        assert output is not None
        assert story(store, job_id) == (TOKENS, output["text"], 1)


@pytest.mark.timeout(600)
def test_killed_workers_lose_and_double_nothing(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    choose = random.Random(SEED)
    ids = [enqueue(live, parameters=PARAMETERS) for _ in range(40 * KILLS)]
    observer = Observer(Store(connect(redis_url)), ids)
    workers = [WorkerProcess(redis_url, tmp_path, CATALOG, **SETTINGS) for _ in range(2)]
    try:
        with observer:
            for kill in range(KILLS):
                # Each worker is killed at a random moment of its life: starting, taking, running, or renewing.
                worker = workers[kill % 2]
                other = workers[1 - kill % 2].start()
                if kill % 5:
                    eventually(lambda: ready(live), 30)
                time.sleep(choose.random() * 0.5)
                worker.kill()
                other.kill() if kill % 7 == 0 else None
                assert not observer.wrong, observer.wrong[:5]
            if not workers[KILLS % 2].alive:
                workers[KILLS % 2].start()
            eventually(lambda: statuses(live, ids) == {"succeeded": len(ids)}, 240)
    finally:
        for worker in workers:
            worker.kill()
    assert not observer.wrong, observer.wrong[:5]
    assert observer.looks > KILLS
    all_told_once(live, ids)
    retaken = sum(look(live, job_id).takes > 1 for job_id in ids)
    assert retaken > 0, "no kill has hit a running job: the test shows nothing"
    print(f"{len(ids)} jobs, {KILLS} kills, {retaken} jobs taken again, {observer.looks} looks: 0 wrong")


@pytest.mark.timeout(300)
def test_lost_replies_double_and_strand_nothing(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    proxy = CuttingProxy(int(redis_url.rsplit(":", 1)[1].split("/")[0]), SEED)
    through = Store(connect(proxy.url))
    ids = [new_job_id() for _ in range(500)]
    fields = fields_of(
        Submission.model_validate({"model": MODEL, "input": {"prompt": "hi"}, "parameters": PARAMETERS}), 1
    )
    try:
        proxy.rate = 0.1
        for job_id in ids:
            while True:
                try:
                    through.run(verb.enqueue(job_id, MODEL, fields, max_depth=100_000))
                    break
                except StoreUnavailableError:
                    continue
        assert live.run(verb.queues([MODEL]))[0].normal == len(ids)
        proxy.rate = 0.0
        with (
            Observer(Store(connect(redis_url)), ids) as observer,
            WorkerProcess(proxy.url, tmp_path, CATALOG, **SETTINGS),
        ):
            eventually(lambda: ready(live), 30)
            proxy.rate = 0.02
            eventually(lambda: statuses(live, ids).get("succeeded", 0) > len(ids) * 0.8, 120)
            proxy.rate = 0.0
            eventually(lambda: statuses(live, ids) == {"succeeded": len(ids)}, 60)
        assert not observer.wrong, observer.wrong[:5]
        assert proxy.cuts > 50
        all_told_once(live, ids)
        print(f"{len(ids)} jobs, {proxy.cuts} replies cut, {observer.looks} looks: 0 wrong")
    finally:
        through.close()
        proxy.close()
