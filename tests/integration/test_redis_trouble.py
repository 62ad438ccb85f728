"""A Redis that drops connections, forgets scripts, is slow, full, or dead for ten seconds, while real jobs run.

API, readers and a worker process live through it: nothing is lost, nothing doubled, nobody restarted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from nowserving import verb
from nowserving.job import Status
from nowserving.store import Store, connect
from tests.api_process import ApiProcess
from tests.api_server import ApiServer
from tests.invariant import story
from tests.proxy import CuttingProxy
from tests.redis_server import RedisServer
from tests.sse import Reader
from tests.worker_process import MODEL, WorkerProcess, look, noop, ready, statuses

StartApi = Callable[..., ApiServer]
Eventually = Callable[..., None]

TOKENS = 40
CATALOG = noop(slots=4, source=f"noop:{TOKENS}@0.05")
LONG = {"max_new_tokens": TOKENS}
TEXT = " ".join(f"w{index}" for index in range(TOKENS))
LEASE_SECONDS = 4.0
OUTAGE_SECONDS = 10.0


@pytest.fixture
def live(own_redis: RedisServer) -> Iterator[Store]:
    store = Store(connect(own_redis.url))
    yield store
    store.close()


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(own_redis.port, seed=1)
    yield proxy
    proxy.close()


@pytest.fixture
def api(start_api: StartApi, proxy: CuttingProxy) -> ApiServer:
    return start_api(proxy.url, lease_seconds=LEASE_SECONDS)


@pytest.fixture
def worker(proxy: CuttingProxy, tmp_path: Path, live: Store, eventually: Eventually) -> Iterator[WorkerProcess]:
    with WorkerProcess(proxy.url, tmp_path, CATALOG, lease_seconds=LEASE_SECONDS) as process:
        eventually(lambda: ready(live), 20)
        yield process


def follow(api: ApiServer, eventually: Eventually, count: int = 8) -> dict[str, Reader]:
    """Jobs, of which four have begun to make tokens, and a reader for each."""
    readers = {job_id: Reader(api, job_id) for job_id in [api.submit_id(parameters=LONG) for _ in range(count)]}
    eventually(lambda: all(reader.status == 200 for reader in readers.values()))
    eventually(lambda: sum(bool(reader.text) for reader in readers.values()) >= min(4, count))
    return readers


def all_told_once(live: Store, readers: dict[str, Reader]) -> None:
    """Each job succeeded, and its reader and its stream tell all of it, each token once."""
    for reader in readers.values():
        reader.join(30)
        reader.hang_up()
        assert reader.text == TEXT
        assert len(set(reader.ids)) == len(reader.ids)
    assert [look(live, job_id).status for job_id in readers] == [Status.SUCCEEDED] * len(readers)
    assert [story(live, job_id) for job_id in readers] == [(TOKENS, TEXT, 1)] * len(readers)


@contextmanager
def all_the_time(port: int, pause_seconds: float, *commands: tuple[object, ...]) -> Iterator[list[Any]]:
    """Send these to Redis again and again; what it answered."""
    stopping = threading.Event()
    answers: list[Any] = []

    def send() -> None:
        with redis.Redis(port=port) as client:
            while not stopping.wait(pause_seconds):
                answers.extend(client.execute_command(*command) for command in commands)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield answers
    finally:
        stopping.set()
        thread.join()


def test_connections_killed_all_the_time(
    own_redis: RedisServer, live: Store, api: ApiServer, worker: WorkerProcess, eventually: Eventually
) -> None:
    readers = follow(api, eventually)
    kill = [("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes") for kind in ("normal", "pubsub")]
    with all_the_time(own_redis.port, 0.25, *kill) as killed:
        eventually(lambda: len(killed) >= 12)
        answers = [api.submit(parameters=LONG, headers={"Idempotency-Key": str(i % 2)}) for i in range(20)]
    assert sum(killed) > 20
    assert {answer.status_code for answer in answers} <= {202, 503}
    all_told_once(live, readers)
    more = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert len(more) == 2
    eventually(lambda: statuses(live, list(more)) == {"succeeded": 2}, 20)
    assert worker.alive


def test_scripts_forgotten_all_the_time(
    own_redis: RedisServer, live: Store, api: ApiServer, worker: WorkerProcess, eventually: Eventually
) -> None:
    with all_the_time(own_redis.port, 0.0002, ("SCRIPT", "FLUSH")) as flushed:
        readers = follow(api, eventually)
        all_told_once(live, readers)
    assert len(flushed) > 100
    assert {look(live, job_id).takes for job_id in readers} == {1}
    assert "NOSCRIPT" not in worker.output()
    assert "cannot take" not in worker.output()
    assert "heartbeat failed" not in worker.output()


@pytest.mark.parametrize("how", ["suspended", "late"])
def test_a_slow_redis_costs_no_lease(
    own_redis: RedisServer,
    proxy: CuttingProxy,
    live: Store,
    api: ApiServer,
    worker: WorkerProcess,
    eventually: Eventually,
    how: str,
) -> None:
    readers = follow(api, eventually, count=4)
    if how == "late":
        proxy.delay_seconds = 0.3
    else:
        for _ in range(2):
            own_redis.suspend()
            time.sleep(LEASE_SECONDS / 4)
            own_redis.resume()
            time.sleep(0.2)
    all_told_once(live, readers)
    proxy.delay_seconds = 0
    assert {look(live, job_id).takes for job_id in readers} == {1}
    assert "the lease has ended" not in worker.output()


def test_a_full_redis_takes_no_jobs_and_finishes_those_it_has(
    own_redis: RedisServer,
    live: Store,
    api: ApiServer,
    worker: WorkerProcess,
    eventually: Eventually,
    tmp_path: Path,
) -> None:
    readers = follow(api, eventually, count=12)
    waiting = api.submit_id(parameters=LONG)
    jobs = [job for job in (look(live, job_id) for job_id in readers) if job.status is Status.RUNNING]
    running = min(jobs, key=lambda job: job.generated).id
    own_redis.configure(maxmemory=1)
    answer = api.submit()
    assert (answer.status_code, answer.json()["code"]) == (503, "redis_full")
    assert int(answer.headers["retry-after"]) >= 1
    for job_id in (running, waiting):
        assert api.http.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "canceled"
    readers.pop(running).hang_up()
    with WorkerProcess(own_redis.url, tmp_path, CATALOG, lease_seconds=LEASE_SECONDS) as second:
        eventually(lambda: ready(live, 2), 20)
        all_told_once(live, readers)
        assert second.alive
    assert worker.alive
    assert api.submit().status_code == 503
    own_redis.configure(maxmemory=0)
    eventually(lambda: look(live, api.submit_id()).status is Status.QUEUED)


def test_ten_seconds_without_redis_under_load(
    own_redis: RedisServer, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    catalog = noop(slots=8, source="noop:10@0.02")
    api = ApiProcess(own_redis.url, tmp_path, catalog)
    first, second = (WorkerProcess(own_redis.url, tmp_path, catalog, lease_seconds=2) for _ in range(2))
    accepted: list[str] = []
    refusals: list[tuple[float, str, bool]] = []
    wrong: list[str] = []
    stopping = threading.Event()

    def load() -> None:
        body = {"model": MODEL, "input": {"prompt": "hello"}, "parameters": {"max_new_tokens": 10}}
        with httpx.Client(base_url=api.url, timeout=10, trust_env=False) as http:
            while not stopping.wait(0.1):
                began = time.monotonic()
                answer = http.post("/v1/jobs", json=body)
                if answer.status_code == 202:
                    accepted.append(answer.json()["id"])
                elif answer.status_code == 503:
                    took = time.monotonic() - began
                    refusals.append((took, answer.json()["code"], int(answer.headers["retry-after"]) >= 1))
                else:
                    wrong.append(answer.text)

    with api, first, second:
        eventually(lambda: ready(live, 2), 30)
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(accepted) > 40, 20)
        own_redis.kill()
        time.sleep(OUTAGE_SECONDS)
        before = len(accepted)
        own_redis.start()
        eventually(lambda: len(accepted) > before + 40, 20)
        stopping.set()
        for thread in threads:
            thread.join()
        eventually(lambda: statuses(live, accepted) == {"succeeded": len(accepted)}, 30)
        assert all(process.alive for process in (api, first, second))
    assert not wrong, wrong[:3]
    assert len(refusals) > 20
    assert {refusal[1:] for refusal in refusals} == {("redis_unavailable", True)}
    assert max(took for took, _, _ in refusals) < 2.5
    assert [story(live, job_id)[::2] for job_id in accepted] == [(10, 1)] * len(accepted)
    assert live.run(verb.queues([MODEL]))[0].depth == 0
