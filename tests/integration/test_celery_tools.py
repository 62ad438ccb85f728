"""Celery's own tools work on our workers: remote control, and Flower."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from nowserving import keys
from nowserving.cli.port import find_free_port
from nowserving.job import Status
from nowserving.store import Store
from tests.worker_process import MODEL, ROOT, WorkerProcess, enqueue, look, noop, ready, workers

Eventually = Callable[..., None]


@pytest.fixture
def environment(redis_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NOWSERVING_REDIS_URL": redis_url,
        "FLOWER_UNAUTHENTICATED_API": "1",
    }


def test_remote_control_sees_and_stops_a_worker(
    redis_url: str, live: Store, environment: dict[str, str], tmp_path: Path, eventually: Eventually
) -> None:
    def control(*words: str) -> dict[str, object]:
        command = [sys.executable, "-m", "celery", "-A", "workers.app", *words, "--json"]
        command += ["--timeout", "5", "-d", worker.node]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        answers: dict[str, object] = json.loads(done.stdout)
        return answers

    with WorkerProcess(redis_url, tmp_path, noop(slots=2, source="noop:1000@0.05"), drain_seconds=0) as worker:
        eventually(lambda: ready(live), 20)
        job_id = enqueue(live, parameters={"max_new_tokens": 1000})
        eventually(lambda: look(live, job_id).generated > 0, 20)
        (queues,) = control("inspect", "active_queues").values()
        assert isinstance(queues, list)
        assert [queue["name"] for queue in queues] == [keys.queue(MODEL)]
        (active,) = control("inspect", "active").values()
        assert isinstance(active, list)
        assert [task["id"].split(".")[0] for task in active] == [job_id]
        (stats,) = control("inspect", "stats").values()
        assert isinstance(stats, dict)
        assert stats["pool"]["max-concurrency"] == 2

        shutdown = [sys.executable, "-m", "celery", "-A", "workers.app", "control", "shutdown"]
        subprocess.run(shutdown, cwd=ROOT, env=environment, capture_output=True, check=False)
        worker.wait(20)
    assert look(live, job_id).status is Status.QUEUED
    assert look(live, job_id).attempt == 0


def test_a_queue_that_is_not_consumed_waits(
    redis_url: str, live: Store, environment: dict[str, str], tmp_path: Path, eventually: Eventually
) -> None:
    def control(*words: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "control", *words]
        command += ["--timeout", "5", "-d", worker.node]
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)

    with WorkerProcess(redis_url, tmp_path, noop()) as worker:
        eventually(lambda: ready(live), 20)
        control("cancel_consumer", keys.queue(MODEL))
        job_id = enqueue(live)
        eventually(lambda: workers(live)[0]["gate"] == {"open": False, "reason": "draining"}, 10)
        assert (look(live, job_id).status, look(live, job_id).takes) == (Status.QUEUED, 0)
        control("add_consumer", keys.queue(MODEL))
        eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 10)


def test_flower_shows_a_worker_and_its_queue(
    redis_url: str, live: Store, environment: dict[str, str], tmp_path: Path, eventually: Eventually
) -> None:
    port = find_free_port()
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "flower", "--address=127.0.0.1", f"--port={port}"]
    with WorkerProcess(redis_url, tmp_path, noop()), (tmp_path / "flower.log").open("wb") as log:
        eventually(lambda: ready(live), 20)
        flower = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:

            def queues_shown() -> list[str]:
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}/api/workers", params={"refresh": "1"}, timeout=10)
                except httpx.TransportError:
                    return []
                return [queue["name"] for worker in answer.json().values() for queue in worker["active_queues"]]

            eventually(lambda: queues_shown() == [keys.queue(MODEL)], 40)
        finally:
            flower.send_signal(signal.SIGTERM)
            flower.wait(20)
