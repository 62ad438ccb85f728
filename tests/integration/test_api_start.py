"""The API as a process: how it starts, refuses to start, and stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from nowserving.cli.port import find_free_port
from tests.redis_server import RedisServer

Eventually = Callable[..., None]
ROOT = Path(__file__).parents[2]


class Process:
    """`uvicorn api.app:app` as a child."""

    def __init__(self, **settings: str) -> None:
        self.port = find_free_port()
        env = {name: value for name, value in os.environ.items() if not name.startswith("NOWSERVING_")}
        env |= {f"NOWSERVING_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "uvicorn", "api.app:app", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--timeout-graceful-shutdown", "5"],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Its exit code and what it said."""
        if number:
            self._process.send_signal(number)
        output, _ = self._process.communicate(timeout=20)
        return self._process.returncode, output

    def serves(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health/live", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(**settings: str) -> Process:
        started.append(Process(**settings))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def said_in_one_sentence(output: str) -> str:
    (sentence,) = [line for line in output.splitlines() if line.startswith("ERROR:") and "Exiting" not in line]
    assert "Traceback" not in output
    return sentence


def test_an_unsuitable_redis_is_refused_in_one_sentence(start: Callable[..., Process], own_redis: RedisServer) -> None:
    own_redis.stop()
    own_redis.start("--maxmemory-policy", "volatile-lru")
    code, output = start(redis_url=own_redis.url).end()
    assert code != 0
    assert "volatile-lru" in said_in_one_sentence(output)


def test_a_wrong_setting_is_refused_in_one_sentence(start: Callable[..., Process], redis_url: str) -> None:
    code, output = start(redis_url=redis_url, lease_seconds="soon").end()
    assert code != 0
    assert "NOWSERVING_LEASE_SECONDS='soon'" in said_in_one_sentence(output)


def test_a_wrong_catalog_is_refused_in_one_sentence(
    start: Callable[..., Process], redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[models.m]\nslots = 0\n")
    code, output = start(redis_url=redis_url, models_file=str(file)).end()
    assert code != 0
    assert "models.m.slots" in said_in_one_sentence(output)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"webhook_allow": "10.0.0.0/33"}, "NOWSERVING_WEBHOOK_ALLOW"), ({"receivers_file": "/nowhere"}, "/nowhere")],
)
def test_wrong_receivers_are_refused_in_one_sentence(
    start: Callable[..., Process], redis_url: str, settings: dict[str, str], says: str
) -> None:
    code, output = start(redis_url=redis_url, **settings).end()
    assert code != 0
    assert says in said_in_one_sentence(output)


def test_it_stops_at_once_though_clients_read_and_wait(
    start: Callable[..., Process], redis_url: str, eventually: Eventually
) -> None:
    process = start(redis_url=redis_url)
    eventually(process.serves, 20)
    with httpx.Client(base_url=f"http://127.0.0.1:{process.port}", trust_env=False, timeout=20) as client:
        body = {"model": "smollm2", "input": {"prompt": "hello"}}
        job_id = client.post("/v1/jobs", json=body).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job_id}/events") as events:
            assert next(events.iter_lines()) == "event: queued"
            began = time.monotonic()
            code, output = process.end(signal.SIGTERM)
    assert time.monotonic() - began < 4
    assert "Traceback" not in output
    assert "ERROR" not in output
    assert code in (0, -signal.SIGTERM)
