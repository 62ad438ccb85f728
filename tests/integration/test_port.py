"""A worker's own port: probes say what they should, whatever becomes of engine, heartbeat and Redis; metrics add up."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nowserving import keys
from nowserving.cli.port import find_free_port
from nowserving.errors import SettingsError
from nowserving.job import Status
from nowserving.store import Store, connect
from tests.deliverer_process import DelivererProcess
from tests.letterbox import ended
from tests.mailbox import Mailbox
from tests.redis_server import RedisServer
from tests.scrape import OwnPort, documented, families
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, noop, statuses
from workers.port import IDLE_SECONDS, MOST_CONNECTIONS, Port

Eventually = Callable[..., None]
Start = Callable[..., OwnPort]

LEASE_SECONDS = 2.0


class Worker(WorkerProcess):
    """A worker with a port of its own."""

    def __init__(self, redis_url: str, folder: Path, catalog: str, **settings: object) -> None:
        self.port = OwnPort()
        given = {"lease_seconds": LEASE_SECONDS, "worker_port": self.port.number, "memory_probe": "host"}
        super().__init__(redis_url, folder, catalog, **given | settings)


def catalog(engine: str, source: object = "") -> str:
    return f'[models.{MODEL}]\nengine = "tests.engines:{engine}"\nslots = 4\nsource = "{source}"\n'


def test_a_worker_is_ready_once_it_has_loaded_and_alive_before(
    redis_url: str, tmp_path: Path, eventually: Eventually
) -> None:
    script = tmp_path / "script"
    script.write_text("43\n")
    with Worker(redis_url, tmp_path, catalog("Starting", script)) as worker:
        port = worker.port
        eventually(lambda: port.probe("ready") == (503, "loading 43%"), 20)
        assert port.probe("live") == (200, "")
        told = port.samples()
        assert told[f"nowserving_worker_ready {MODEL}"] == 0
        assert told[f"nowserving_worker_gate_closed {MODEL} engine"] == 1
        assert told[f"nowserving_worker_idle_seconds_total {MODEL}"] == 0
        with script.open("a") as file:
            file.write("ready\n")
        eventually(lambda: port.probe("ready") == (200, ""), 5)
        assert port.samples()[f"nowserving_worker_ready {MODEL}"] == 1
        assert port.get("/health").status_code == port.get("/").status_code == 404
        assert port.get("/health/ready?verbose").json() == {"status": "ok"}


def test_metrics_add_up(live: Store, redis_url: str, tmp_path: Path, eventually: Eventually) -> None:
    with Worker(redis_url, tmp_path, noop(source="noop:200@0.05,1000/200000")) as worker:
        port = worker.port
        ids = [enqueue(live, "hello", parameters={"max_new_tokens": 20}) for _ in range(6)]
        eventually(lambda: statuses(live, ids) == {"running": 4, "queued": 2}, 20)
        # A job that has just been taken is promised its bound, till its tokens are counted.
        eventually(lambda: port.samples()[f"nowserving_worker_promised_bytes {MODEL}"] == 4 * 25 * 1000)
        told = port.samples()
        assert told[f"nowserving_worker_running {MODEL}"] == told[f"nowserving_worker_slots {MODEL}"] == 4
        eventually(lambda: statuses(live, ids) == {"succeeded": 6}, 10)
        failed = enqueue(live, "hello", parameters={"max_new_tokens": 180}, timeout_seconds=1)
        large = enqueue(live, "hello", parameters={"max_new_tokens": 4000})
        eventually(lambda: statuses(live, [failed, large]) == {"failed": 2}, 10)
        eventually(lambda: port.samples()[f"nowserving_worker_running {MODEL}"] == 0)
        answer = port.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert set(families(answer.text)) == set(documented("Workers and deliverers", "Workers"))
        told = port.samples()
        expected = {
            "worker_ready": 1,
            "worker_gate_open": 1,
            "worker_taken_total": 8,
            "worker_prompt_tokens_total": 7 * 5,
            "worker_attempts_total": 7,
            "worker_budget_bytes": 200_000,
            "worker_promised_bytes": 0,
            "worker_heartbeat_failures_total": 0,
            "job_queue_wait_seconds_count": 8,
            "job_time_to_first_token_seconds_count": 7,
            "job_prefill_seconds_count": 7,
            "job_run_seconds_count": 8,
        }
        assert {name: told[f"nowserving_{name} {MODEL}"] for name in expected} == expected
        ended = {name: value for name, value in told.items() if "jobs_ended" in name}
        assert ended == {
            f"nowserving_worker_jobs_ended_total  {MODEL} succeeded": 6,
            f"nowserving_worker_jobs_ended_total timeout {MODEL} failed": 1,
            f"nowserving_worker_jobs_ended_total too_large {MODEL} failed": 1,
        }
        assert 6 * 20 < told[f"nowserving_worker_tokens_total {MODEL}"] < 6 * 20 + 60
        assert told[f"nowserving_worker_gate_decisions_total {MODEL} slots"] > 0
        assert 0 < told[f"nowserving_worker_idle_seconds_total {MODEL}"] < 20
        assert 0.3 < told[f"nowserving_job_run_seconds_sum {MODEL}"] < 20
        share, total = (told[f"nowserving_worker_device_{name}_bytes {MODEL}"] for name in ("limit", "total"))
        assert share == int(0.9 * total)
        assert 0 < told[f"nowserving_worker_device_allocated_bytes {MODEL}"] < total
        assert 0 < told[f"nowserving_worker_device_free_bytes {MODEL}"] < total


def test_a_worker_whose_engine_hangs_is_not_alive(
    live: Store, redis_url: str, tmp_path: Path, eventually: Eventually
) -> None:
    with Worker(redis_url, tmp_path, catalog("Hazard", "noop:20@0.05")) as worker:
        eventually(lambda: worker.port.probe("live") == (200, "") == worker.port.probe("ready"), 20)
        enqueue(live, "hang")
        eventually(lambda: worker.port.probe("live") == (503, "no step in 2 s"), 8)
        assert worker.port.probe("ready") == (503, "no step in 2 s")
        assert worker.port.samples()[f"nowserving_worker_running {MODEL}"] == 1
        assert worker.wait(15) == os.EX_SOFTWARE


@pytest.mark.parametrize("thread", ["heartbeat", "taker"])
def test_a_worker_without_its_heartbeat_or_its_taker_is_not_alive(
    redis_url: str, tmp_path: Path, eventually: Eventually, thread: str
) -> None:
    victim = tmp_path / "victim"
    with Worker(redis_url, tmp_path, catalog("Quitting", victim)) as worker:
        eventually(lambda: worker.port.probe("ready")[0] == 200, 20)
        assert worker.port.probe("live") == (200, "")
        victim.write_text(thread)
        eventually(lambda: worker.port.probe("live") == (503, f"the {thread}'s thread has ended"), 5)
        assert worker.port.probe("ready") == (200, "")
        assert worker.alive  # by itself it would go on for ever, and do nothing


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_a_redis_that_is_away_for_longer_than_the_lease_kills_no_pod(
    own_redis: RedisServer, tmp_path: Path, eventually: Eventually, how: str
) -> None:
    store = Store(connect(own_redis.url))
    with Worker(own_redis.url, tmp_path, noop(source="noop:40@0.1")) as worker:
        eventually(lambda: worker.port.probe("ready")[0] == 200, 20)
        job_id = enqueue(store, parameters={"max_new_tokens": 40})
        eventually(lambda: look(store, job_id).generated > 3, 10)
        if how == "gone":
            own_redis.kill()
        else:
            own_redis.suspend()
        until = time.monotonic() + 1.5 * LEASE_SECONDS
        while time.monotonic() < until:
            asked_at = time.monotonic()
            assert (worker.port.probe("live"), worker.port.probe("ready")) == ((200, ""), (200, ""))
            assert time.monotonic() - asked_at < 1
            time.sleep(0.1)
        if how == "gone":
            own_redis.start()
        else:
            own_redis.resume()
        eventually(lambda: look(store, job_id).status is Status.SUCCEEDED, 40)
        told = worker.port.samples()
        assert told[f"nowserving_worker_leases_lost_total {MODEL} lapsed"] == 1
        assert (told[f"nowserving_worker_heartbeat_failures_total {MODEL}"] > 0) is (how == "gone")
    store.close()


def test_a_worker_that_starts_without_redis_is_alive_and_waits(
    own_redis: RedisServer, tmp_path: Path, eventually: Eventually
) -> None:
    own_redis.kill()
    with Worker(own_redis.url, tmp_path, noop()) as worker:
        eventually(lambda: worker.port.probe("live") == (200, ""), 20)
        worker.wait_for_log("Cannot connect", 10)
        assert (worker.port.probe("live"), worker.port.probe("ready")) == ((200, ""), (503, "loading"))
        assert worker.port.samples()[f"nowserving_worker_ready {MODEL}"] == 0
        own_redis.start()
        eventually(lambda: worker.port.probe("ready") == (200, ""), 20)


def test_a_worker_that_drains_is_ready_and_no_longer_busy(
    live: Store, redis_url: str, tmp_path: Path, eventually: Eventually
) -> None:
    with Worker(redis_url, tmp_path, noop(source="noop:60@0.05")) as worker:
        job_id = enqueue(live, parameters={"max_new_tokens": 60})
        eventually(lambda: look(live, job_id).generated > 2, 20)
        assert live.client.hlen(keys.BUSY + MODEL) == 1
        worker.send(signal.SIGTERM)
        eventually(lambda: live.client.hlen(keys.BUSY + MODEL) == 0, 2)
        assert look(live, job_id).status is Status.RUNNING
        assert (worker.port.probe("live"), worker.port.probe("ready")) == ((200, ""), (200, ""))
        told = worker.port.samples()
        assert told[f"nowserving_worker_gate_closed {MODEL} draining"] == 1
        assert told[f"nowserving_worker_running {MODEL}"] == 1
        seen = set()
        while worker.alive:
            seen.add(worker.port.probe("live"))
            time.sleep(0.02)
        assert seen <= {(200, ""), (0, "")}
        assert worker.wait(1) == 0
        assert look(live, job_id).status is Status.SUCCEEDED


def test_a_deliverer_has_a_port_of_its_own_too(
    live: Store, redis_url: str, mailbox: Mailbox, tmp_path: Path, eventually: Eventually
) -> None:
    port = OwnPort()
    with DelivererProcess(redis_url, tmp_path, worker_port=port.number):
        eventually(lambda: port.probe("ready") == port.probe("live") == (200, ""), 20)
        ended(live, mailbox.receiver())
        delivered = f"nowserving_deliverer_deliveries_total {keys.WEBHOOKS} delivered"
        eventually(lambda: port.samples().get(delivered) == 1, 10)
        told = port.samples()
        assert set(families(port.get("/metrics").text)) == set(documented("Workers and deliverers", "Deliverers"))
        assert told[f"nowserving_deliverer_attempts_total {keys.WEBHOOKS} 2xx"] == 1
        assert told[f"nowserving_deliverer_attempt_seconds_count {keys.WEBHOOKS}"] == 1
        assert told[f"nowserving_worker_slots {keys.WEBHOOKS}"] == 32
        assert told[f"nowserving_worker_running {keys.WEBHOOKS}"] == 0


def test_a_port_that_is_taken_is_one_sentence_and_nothing_to_try_again(redis_url: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with Worker(redis_url, tmp_path, noop(), worker_port=number) as worker:
            assert worker.wait(30) == os.EX_CONFIG
        said = f"nowserving: NOWSERVING_WORKER_PORT={number} cannot be listened on: Address already in use"
        assert [line for line in worker.output().splitlines() if "NOWSERVING" in line] == [said]
        assert "Traceback" not in worker.output()
        with pytest.raises(SettingsError, match="Address already in use"):
            Port(number, str, str, bytes)


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    made = Port(find_free_port(), lambda: "", lambda: "", lambda: b"a 1\n")
    yield made
    made.close()


def test_connections_that_say_nothing_keep_no_probe_out(port: Port) -> None:
    before = threading.active_count()
    began = time.monotonic()
    with ExitStack() as held:
        for index in range(3 * MOST_CONNECTIONS):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", port.number)))
            if index % 2:
                connection.send(b"GET /health/live HTT")
        for _ in range(5):
            assert OwnPort(port.number).probe("live") == (200, "")
        assert time.monotonic() - began < IDLE_SECONDS  # none has been closed for its silence
        assert threading.active_count() - before <= MOST_CONNECTIONS + 2


def test_a_scrape_that_hangs_keeps_one_thread_and_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.port.SCRAPE_SECONDS", 0.2)
    release, begun = threading.Event(), threading.Event()

    def hang() -> bytes:
        begun.set()
        release.wait(10)
        return b""

    made = Port(find_free_port(), lambda: "", lambda: "", hang)
    port = OwnPort(made.number)
    hanging = threading.Thread(target=lambda: port.get("/metrics"))
    hanging.start()
    assert begun.wait(5)
    answer = port.get("/metrics")
    assert (answer.status_code, answer.json()["reason"]) == (503, "another scrape is under way")
    assert port.probe("ready") == (200, "")
    release.set()
    hanging.join()
    assert port.get("/metrics").status_code == 200
    made.close()


@pytest.mark.parametrize("said", [b"POST /metrics HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"GET\r\n\r\n", b""])
def test_what_is_no_get_is_answered_and_does_no_harm(port: Port, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port.number)) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        assert b" 200 " not in connection.recv(1000)
    assert OwnPort(port.number).get("/metrics").text == "a 1\n"
