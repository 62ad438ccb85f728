"""A new primary behind the same name: API, readers and a real worker come back by themselves, and nothing is doubled.

A proxy is the name: where it leads to changes for new connections alone, as with DNS.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu.connection import Connection

from nowserving import verb
from nowserving.errors import StoreUnavailableError
from nowserving.store import Store, connect
from tests.api_server import ApiServer
from tests.child_process import ROOT
from tests.invariant import story
from tests.proxy import CuttingProxy
from tests.redis_server import RedisServer
from tests.sse import Reader
from tests.worker_process import MODEL, WorkerProcess, noop, statuses
from workers.transport import Transport

StartApi = Callable[..., ApiServer]
Eventually = Callable[..., None]

TOKENS = 40
CATALOG = noop(slots=4, source=f"noop:{TOKENS}@0.05")
LONG = {"max_new_tokens": TOKENS}
TEXT = " ".join(f"w{index}" for index in range(TOKENS))
LEASE_SECONDS = 4.0


@pytest.fixture
def replica(own_redis: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    """A replica of `own_redis`."""
    server = RedisServer(tmp_path)
    server.start()
    server.follow(own_redis)
    yield server
    server.kill()


@pytest.fixture
def name(own_redis: RedisServer) -> Iterator[CuttingProxy]:
    """The name, which leads to `own_redis` at first."""
    proxy = CuttingProxy(own_redis.port, seed=1)
    yield proxy
    proxy.close()


@pytest.fixture
def worker(name: CuttingProxy, tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(name.url, tmp_path, CATALOG, lease_seconds=LEASE_SECONDS) as process:
        yield process


def nobody_stays(server: RedisServer) -> bool:
    assert server.clients() == []
    return True


def answers_to_celery(url: str) -> bool:
    """Whether `celery inspect ping` finds the worker."""
    ping = [sys.executable, "-m", "celery", "-A", "workers.app", "inspect", "ping", "--timeout", "2"]
    env = {"PATH": "", "PYTHONPATH": str(ROOT), "NOWSERVING_REDIS_URL": url}
    return b"pong" in subprocess.run(ping, cwd=ROOT, env=env, capture_output=True, check=False).stdout


@pytest.mark.parametrize("how", ["demoted", "killed"])
def test_all_come_back_when_the_name_leads_to_another_primary(
    start_api: StartApi,
    own_redis: RedisServer,
    replica: RedisServer,
    name: CuttingProxy,
    worker: WorkerProcess,
    eventually: Eventually,
    how: str,
) -> None:
    api = start_api(name.url, lease_seconds=LEASE_SECONDS)
    eventually(lambda: [w["state"] for w in api.http.get("/v1/workers").json()["data"]] == ["ready"], 20)
    ids = [api.submit_id(parameters=LONG) for _ in range(8)]
    readers = [Reader(api, job_id) for job_id in ids]
    eventually(lambda: all(reader.status == 200 for reader in readers) and sum(bool(r.text) for r in readers) == 4)

    if how == "demoted":
        own_redis.hand_over(replica)
        # All connections are alive, and so is the old address.
        eventually(lambda: api.submit().status_code == 503)
        assert api.submit().json()["code"] == "redis_unavailable"
    else:
        own_redis.kill()
        replica.promote()
    name.target = replica.port

    eventually(lambda: api.submit("late").status_code == 202)
    for reader in readers:
        reader.join(30)
        assert reader.text == TEXT
        assert len(set(reader.ids)) == len(reader.ids)
        reader.hang_up()
    store = Store(connect(replica.url))
    assert statuses(store, ids) == {"succeeded": 8}
    assert [story(store, job_id) for job_id in ids] == [(TOKENS, TEXT, 1)] * 8
    assert worker.alive
    if how == "demoted":
        eventually(lambda: answers_to_celery(name.url), 20)
        eventually(lambda: nobody_stays(own_redis))
    store.close()


def test_a_replica_is_nobodys_redis(start_api: StartApi, replica: RedisServer, eventually: Eventually) -> None:
    """What it tells may be old, and its hints late: not even reads go there."""
    store = Store(connect(replica.url))
    with pytest.raises(StoreUnavailableError, match="a replica"):
        store.run(verb.queues([MODEL]))
    store.close()
    api = start_api(replica.url)
    assert api.http.get("/health").json()["redis"] == "unavailable"
    for answer in (api.submit(), api.http.get("/v1/queues")):
        assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
        assert "a replica" in answer.json()["detail"]
    celery = Connection(replica.url, transport=Transport)
    with pytest.raises(celery.connection_errors, match="a replica"):
        celery.connect()
    celery.release()
    eventually(lambda: nobody_stays(replica))
