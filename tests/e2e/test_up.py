"""`nowserving up`, with real processes throughout."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from nowserving import verb
from nowserving.answer import Queue
from nowserving.cli.stack import WORKER_HURRY_SECONDS
from nowserving.client import Client
from nowserving.job import Job, Status
from nowserving.secret import check_secret
from nowserving.store import Store, connect
from tests.mailbox import Mailbox
from tests.redis_server import RedisServer, find_program
from tests.up_process import UpProcess, eventually

TOKENS = 30

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def slow(interval_seconds: float) -> str:
    """A models.toml whose jobs make TOKENS tokens, one each interval."""
    return f'[models.noop]\nengine = "noop"\nslots = 2\nsource = "noop:{TOKENS}@{interval_seconds}"\n'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_in_order_and_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    with UpProcess(tmp_path) as up:
        with Client(up.url) as client:
            job = client.submit("noop", "hello", max_new_tokens=4)
            assert client.wait(job.id, 20).status is Status.SUCCEEDED
        assert len(up.children()) == 4
        up.send(number)
        assert up.wait() == 0
        assert up.children() == {}
        assert up.output.rstrip().endswith("stopped")


def test_what_was_accepted_survives_a_restart(tmp_path: Path) -> None:
    with UpProcess(tmp_path) as up:
        with Client(up.url) as client:
            job_id = client.submit("noop", "hello", max_new_tokens=4).id
            text = client.wait(job_id, 20).text
        up.send(signal.SIGTERM)
        assert up.wait() == 0
    with UpProcess(tmp_path) as up, Client(up.url) as client:
        assert client.get(job_id).text == text


def test_kill_9_of_up_leaves_no_process(tmp_path: Path) -> None:
    with UpProcess(tmp_path) as up:
        assert up.url
        assert len(up.children()) == 4
        up.send(signal.SIGKILL)
        up.wait()
        eventually(lambda: not up.children())


def test_a_signal_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    with UpProcess(tmp_path) as up:
        eventually(up.children)
        up.send(signal.SIGTERM)
        assert up.wait() == 0
        assert up.children() == {}


def test_webhooks_are_signed_with_a_secret_that_is_made_once(tmp_path: Path) -> None:
    secrets = []
    for _ in range(2):
        with UpProcess(tmp_path) as up:
            assert up.url
            path = tmp_path / "data" / "webhook_secret"
            eventually(lambda path=path, up=up: f"signed with the secret in {path}" in up.output)  # type: ignore[misc]
            assert path.stat().st_mode & 0o777 == 0o600
            secrets.append(path.read_text().strip())
            for part in ("api.app", "queue:@webhooks"):
                given = Path(f"/proc/{up.find(part)}/environ").read_text().split("\0")
                assert f"NOWSERVING_WEBHOOK_SECRET={secrets[-1]}" in given
            up.send(signal.SIGTERM)
            assert up.wait() == 0
    assert secrets[0] == secrets[1] == check_secret(secrets[0])


def test_a_jobs_webhook_comes_signed_with_that_secret(tmp_path: Path) -> None:
    with (
        UpProcess(tmp_path, NOWSERVING_WEBHOOK_ALLOW="127.0.0.1") as up,
        Mailbox() as mailbox,
        Client(up.url) as client,
    ):
        job = client.submit("noop", "hello", max_new_tokens=4, webhook=mailbox.receiver().url)
        eventually(lambda: mailbox.letters, 20)
        (letter,) = mailbox.letters
        payload = letter.verify((tmp_path / "data" / "webhook_secret").read_text().strip())
        assert isinstance(payload, dict)
        assert (payload["type"], payload["data"]["id"]) == ("job.succeeded", job.id)
        eventually(lambda: [delivery.status for delivery in client.deliveries(job.id).deliveries] == ["delivered"])


def submit_three(up: UpProcess) -> list[str]:
    """Three jobs for two slots; returns when two have streamed a token."""
    with Client(up.url) as client:
        ids = [client.submit("noop", "hello", max_new_tokens=TOKENS).id for _ in range(3)]
        for job_id in ids[:2]:
            assert any(event.type == "token" for event in client.stream(job_id))
    return ids


def read_data(folder: Path, ids: list[str]) -> tuple[list[Job], Queue]:
    """The jobs and their queue as a stopped `up` has left them on disk."""
    server = RedisServer(folder / "data")
    server.start()
    store = Store(connect(server.url))
    try:
        return [store.run(verb.look(job_id)).job for job_id in ids], store.run(verb.queues(["noop"]))[0]
    finally:
        store.close()
        server.stop()


def test_a_first_signal_lets_running_jobs_finish(tmp_path: Path) -> None:
    with UpProcess(tmp_path, models=slow(0.1), NOWSERVING_DRAIN_SECONDS="60") as up:
        ids = submit_three(up)
        up.send(signal.SIGTERM)
        assert up.wait() == 0
    jobs, queue = read_data(tmp_path, ids)
    assert [job.status for job in jobs] == [Status.SUCCEEDED, Status.SUCCEEDED, Status.QUEUED]
    assert [job.takes for job in jobs] == [1, 1, 0]
    assert (queue.depth, queue.running) == (1, 0)


def test_a_second_signal_hands_running_jobs_back_at_once(tmp_path: Path) -> None:
    with UpProcess(tmp_path, models=slow(1), NOWSERVING_DRAIN_SECONDS="600") as up:
        ids = submit_three(up)
        up.send(signal.SIGINT)
        eventually(lambda: "stopping" in up.output)
        up.send(signal.SIGINT)
        told_at = time.monotonic()
        assert up.wait() == 0
        assert time.monotonic() - told_at < WORKER_HURRY_SECONDS
        assert up.children() == {}
    jobs, queue = read_data(tmp_path, ids)
    assert [job.status for job in jobs] == [Status.QUEUED] * 3
    assert [job.takes for job in jobs] == [1, 1, 0]
    assert [job.attempt for job in jobs] == [0] * 3
    made = [job.generated for job in jobs]
    assert made[0] > 0 < made[1]
    assert (queue.depth, queue.delayed, queue.running) == (3, 0, 0)
    with UpProcess(tmp_path, models=slow(0.01)) as up, Client(up.url) as client:
        for job_id, before in zip(ids, made, strict=True):
            tokens = [event.data for event in client.stream(job_id) if event.type == "token"]
            assert [index for data in tokens for index in data["ids"]] == list(range(TOKENS))
            assert before in [data["index"] for data in tokens]
            assert client.get(job_id).status is Status.SUCCEEDED


def test_a_worker_that_does_not_hear_a_second_signal_is_killed(tmp_path: Path) -> None:
    with UpProcess(tmp_path, NOWSERVING_DRAIN_SECONDS="600") as up:
        assert up.url
        os.kill(up.find("queue:noop"), signal.SIGSTOP)
        up.send(signal.SIGINT)
        eventually(lambda: "stopping" in up.output)
        up.send(signal.SIGINT)
        assert up.wait(20) == 0
        assert up.children() == {}


@pytest.mark.parametrize("part", ["queue:noop", "queue:@webhooks", "api.app"])
def test_a_dead_part_is_started_again(tmp_path: Path, part: str) -> None:
    with UpProcess(tmp_path) as up, Client(up.url) as client:
        dead = up.find(part)
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: dead not in up.children() and any(part in line for line in up.children().values()))
        job = client.submit("noop", "hello", max_new_tokens=4)
        assert client.wait(job.id, 60).status is Status.SUCCEEDED


def test_the_end_of_redis_is_the_end_of_all(tmp_path: Path) -> None:
    with UpProcess(tmp_path) as up:
        assert up.url
        os.kill(up.find(find_program().name), signal.SIGKILL)
        assert up.wait() == 1
        assert "nowserving: redis was ended by SIGKILL" in up.output
        assert up.children() == {}


def test_a_worker_that_cannot_start_ends_it_with_its_words(tmp_path: Path) -> None:
    with UpProcess(tmp_path, models='[models.broken]\nengine = "no_such_module:Engine"\n') as up:
        assert up.wait(60) != 0
        assert "nowserving: broken ended with exit code" in up.output
        assert "no_such_module" in up.output.splitlines()[-1]
        assert up.children() == {}


def hazard(name: str, source: object) -> str:
    return f'[models.noop]\nengine = "tests.engines:{name}"\nslots = 2\nsource = "{source}"\n'


def test_a_worker_that_may_start_later_is_started_again_slowly(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("away")
    with UpProcess(tmp_path, models=hazard("Starting", script)) as up:
        eventually(lambda: "started again in 15 s" in up.output, 30)
        assert "ended with exit code 75; started again in 15 s" in up.output
        script.write_text("ready")
        assert up.url
        assert up.output.count("the hub is away") == 1


def test_a_worker_that_a_person_must_mend_ends_it(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("broken")
    with UpProcess(tmp_path, models=hazard("Starting", script)) as up:
        assert up.wait(60) == 1
        assert up.output.count("the model is broken") == 2  # in the log, and as the last word
        assert up.output.splitlines()[-1].startswith("nowserving: noop ended with exit code 78: ")
        assert up.output.splitlines()[-1].endswith("the model is broken")


def test_a_worker_whose_engine_dies_is_started_again_at_once_and_the_other_jobs_go_on(tmp_path: Path) -> None:
    models = hazard("Mortal", "noop:40@0.05")
    with UpProcess(tmp_path, models=models, NOWSERVING_MAX_ATTEMPTS="1") as up, Client(up.url) as client:
        good = client.submit("noop", "hello", max_new_tokens=40)
        assert any(event.type == "token" for event in client.stream(good.id))
        bad = client.submit("noop", "die", max_new_tokens=4)
        assert client.wait(bad.id, 20).status is Status.FAILED
        done = client.wait(good.id, 60)
        assert done.text == " ".join(f"w{index}" for index in range(40))
        assert "the engine is dead: " in up.output
        assert "ended with exit code 70; started again in 0.5 s" in up.output
