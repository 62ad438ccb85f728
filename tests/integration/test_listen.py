"""`nowserving listen` as a process: what it takes, what it refuses, what it prints."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nowserving.cli.receiver import MOST_BYTES, Receiver
from nowserving.secret import new_secret
from nowserving.signature import sign
from tests.child_process import ROOT, ChildProcess

SECRET = new_secret()
DELIVERY = "dlv_01k0000000000000000000000a_succeeded"
JOB = "job_01k0000000000000000000000a"


def body(text: str = "The capital of France is Paris.", **data: Any) -> bytes:
    job = {"id": JOB, "output": {"text": text}, **data}
    return json.dumps({"type": "job.succeeded", "timestamp": "2026-01-01T00:00:00.000Z", "data": job}).encode()


def post(url: str, content: bytes = b"", secret: str = SECRET, **changed: str) -> httpx.Response:
    content = content or body()
    headers = sign([secret], DELIVERY, time.time(), content)
    headers |= {f"webhook-{name}": value for name, value in changed.items()}
    return httpx.post(url, content=content, headers=headers, trust_env=False)


class Listener(ChildProcess):
    """The command on a free port, its stdout and stderr in one log."""

    def __init__(self, folder: Path, *options: str, **env: str) -> None:
        command = [sys.executable, "-m", "nowserving.cli", "listen", "0", *options]
        super().__init__(command, {"NOWSERVING_DATA_DIR": str(folder), **env}, folder / "listen.log")

    @property
    def url(self) -> str:
        self.wait_for_log("Ctrl-C stops it", 20)
        return self.output().split()[2].rstrip(",")

    @property
    def lines(self) -> list[str]:
        """What it has printed of deliveries."""
        return self.output().splitlines()[1:]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    started: list[Listener] = []

    def start(*options: str, **env: str) -> Listener:
        started.append(listener := Listener(tmp_path, *options, **env))
        listener.start()
        return listener

    yield start
    for listener in started:
        listener.kill()


def test_a_genuine_delivery_is_taken_and_printed_in_a_line(listen: Callable[..., Listener]) -> None:
    listener = listen(NOWSERVING_WEBHOOK_SECRET=SECRET)
    assert post(listener.url).status_code == 204
    assert post(listener.url + "/any/path").status_code == 204
    first, second = listener.lines
    assert re.fullmatch(
        rf"\d\d:\d\d:\d\d  job.succeeded  {JOB}  {DELIVERY}  verified  The capital of France is Paris\.", first
    )
    assert "verified, again  The" in second
    listener.send(signal.SIGINT)
    assert listener.wait(5) == 0
    assert len(listener.lines) == 2


def test_what_is_not_genuine_is_refused_and_says_why(listen: Callable[..., Listener]) -> None:
    listener = listen("--secret", SECRET)
    refused = [
        post(listener.url, secret=new_secret()),
        post(listener.url, id=DELIVERY + "_2"),
        post(listener.url, timestamp=str(int(time.time()) - 301)),
        httpx.post(listener.url, content=body(), trust_env=False),
        post(listener.url, signature="v1"),
    ]
    assert [answer.status_code for answer in refused] == [400] * 5
    reasons = ["No matching signature found", "No matching signature found", "Message timestamp too old"]
    for line, answer, reason in zip(listener.lines, refused, [*reasons, "Missing required headers"], strict=False):
        assert f"refused: {reason}" in line
        assert answer.text == reason + "\n"
    assert "refused: Invalid signature" in listener.lines[4]
    assert post(listener.url).status_code == 204
    assert "again" not in listener.lines[5]


def test_either_secret_will_do_while_it_is_changed(listen: Callable[..., Listener], tmp_path: Path) -> None:
    other = new_secret()
    (tmp_path / "webhook_secret").write_text(f"{SECRET}\n{other}\n")
    listener = listen()
    assert [post(listener.url, secret=secret).status_code for secret in (SECRET, other)] == [204, 204]
    assert f"verifying with {tmp_path / 'webhook_secret'}" in listener.output()


def test_it_fails_the_first_ones_on_purpose(listen: Callable[..., Listener]) -> None:
    listener = listen("--secret", SECRET, "--fail", "2")
    assert post(listener.url, secret=new_secret()).status_code == 400
    assert [post(listener.url).status_code for _ in range(3)] == [500, 500, 204]
    assert "verified, answered 500" in listener.lines[1]
    assert "verified, again, answered 500" in listener.lines[2]
    assert "verified, again  The" in listener.lines[3]


def test_a_script_gets_a_line_of_json_each(listen: Callable[..., Listener]) -> None:
    listener = listen("--secret", SECRET, "--json")
    content = body("é\ud800\n")
    assert post(listener.url, content).status_code == 204
    assert post(listener.url, b"none", secret=new_secret()).status_code == 400
    first, second = map(json.loads, listener.lines)
    assert first.pop("at")
    assert first == {
        "webhook_id": DELIVERY,
        "verified": True,
        "fault": None,
        "again": False,
        "status": 204,
        "payload": json.loads(content),
    }
    assert second["verified"] is False
    assert second["payload"] == {}


def test_no_delivery_moves_the_cursor(listen: Callable[..., Listener]) -> None:
    listener = listen("--secret", SECRET)
    post(listener.url, body("\x1b[2J\x9b1mred\ud800", id="\x1b]0;title\x07"))
    post(listener.url, json.dumps({"type": ["\x1b"], "data": [1]}).encode())
    post(listener.url, b'{"data": {"error": {"code": "timeout", "message": "ran 5 s"}, "output": "?"}}')
    assert "\x1b" not in listener.output()
    assert "\x9b" not in listener.output()
    assert "1mred" in listener.lines[0]
    assert listener.lines[2].endswith("verified, again  timeout: ran 5 s")


def test_only_a_body_of_a_known_and_small_size_is_read(listen: Callable[..., Listener]) -> None:
    listener = listen("--secret", SECRET)
    host, port = httpx.URL(listener.url).host, httpx.URL(listener.url).port or 0
    for header, answer in (
        ("", b" 411 "),
        ("Content-Length: -1\r\n", b" 411 "),
        (f"Content-Length: {MOST_BYTES + 1}\r\n", b" 413 "),
        (f"Content-Length: {'9' * 5000}\r\n", b" 413 "),
    ):
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(f"POST / HTTP/1.1\r\n{header}\r\n".encode())
            assert answer in connection.recv(100)
    assert post(listener.url, b"a" * MOST_BYTES, secret=new_secret()).status_code == 400
    assert httpx.get(listener.url, trust_env=False).status_code == 501
    assert len(listener.lines) == 1


def test_a_connection_that_drips_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nowserving.cli.receiver.CONNECTION_SECONDS", 0.3)
    with Receiver("127.0.0.1", 0, [SECRET], lambda received: None) as receiver:
        threading.Thread(target=receiver.serve_forever, args=(0.02,), daemon=True).start()
        with socket.create_connection(("127.0.0.1", receiver.server_port), timeout=5) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n1")
            assert connection.recv(100) == b""
        receiver.shutdown()


def run(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nowserving.cli", "listen", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_what_keeps_it_from_listening_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run(port, "--secret", SECRET)
        assert (
            ended.stderr
            == f"nowserving: cannot listen on 127.0.0.1:{port}: Address already in use; name another port\n"
        )
        assert ended.returncode == 2
    ended = run("0", "--secret", "whsec_short")
    assert "--secret: a secret is whsec_ and 24 to 64 bytes in base64" in ended.stderr
    assert "short" not in ended.stderr
    ended = run("0", NOWSERVING_DATA_DIR=str(tmp_path))
    assert "there is no secret to verify with" in ended.stderr
    assert ended.stderr.count("\n") == 1
    for spoiled, says in ((b"\xff", "can't decode"), (b"\n", "holds one secret")):
        (tmp_path / "webhook_secret").write_bytes(spoiled)
        assert says in run("0", NOWSERVING_DATA_DIR=str(tmp_path)).stderr


def test_it_ends_quietly_when_nobody_reads_on() -> None:
    command = [sys.executable, "-m", "nowserving.cli", "listen", "0", "--secret", SECRET]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        url = re.findall(r"http://[^,]+", process.stderr.readline())[0]
        process.stdout.close()
        assert post(url).status_code == 204
        assert process.wait(10) == 0
        assert process.stderr.read() == ""
