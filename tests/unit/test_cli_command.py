from __future__ import annotations

import os
from pathlib import Path

import pytest

from nowserving.cli.command import (
    api_command,
    deliver_command,
    environment,
    find_root,
    redis_command,
    require,
    worker_command,
)
from nowserving.cli.example import make_curl
from nowserving.cli.failure import FAILED, USAGE, PartError, StartError, exit_code
from nowserving.cli.port import make_url
from nowserving.errors import CatalogError, SettingsError
from nowserving.secret import new_secret
from nowserving.settings import load_settings


def test_worker_is_celerys_own_command_with_the_redis_key_as_its_queue() -> None:
    command = worker_command("smollm2")
    assert command[1:3] == ["-m", "celery"]
    assert command[command.index("-Q") + 1] == "nowserving:queue:smollm2"
    assert command[command.index("-n") + 1] == f"smollm2-{os.getpid()}@%h"
    second = worker_command("smollm2", "smollm2-2")
    assert second[second.index("-Q") + 1] == "nowserving:queue:smollm2"
    assert second[second.index("-n") + 1] == f"smollm2-2-{os.getpid()}@%h"


def test_a_deliverer_is_the_same_command_for_the_queue_of_webhooks() -> None:
    command = deliver_command()
    assert command[1:3] == ["-m", "celery"]
    assert command[command.index("-Q") + 1] == "nowserving:queue:@webhooks"
    assert command[command.index("-n") + 1] == f"deliver-{os.getpid()}@%h"


def test_api_is_uvicorns_own_command() -> None:
    command = " ".join(api_command("0.0.0.0", 80))
    assert "-m uvicorn api.app:app --host 0.0.0.0 --port 80" in command


def test_redis_writes_before_it_answers_and_never_evicts() -> None:
    command = redis_command(Path("/bin/redis-server"), 1234, Path("/data"))
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--appendfsync"] == "always"
    assert given["--maxmemory-policy"] == "noeviction"
    assert given["--save"] == ""
    assert given["--bind"] == "127.0.0.1"


def test_the_root_is_the_first_place_with_all_packages(tmp_path: Path) -> None:
    for folder in ("half/api", "whole/api", "whole/workers"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "app.py").touch()
    places = [tmp_path / "none", tmp_path / "half", tmp_path / "whole"]
    assert find_root("api", places=places) == tmp_path / "half"
    assert find_root("api", "workers", places=places) == tmp_path / "whole"


def test_a_wheel_alone_names_the_checkout_and_the_images(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no api/ and workers/ here.*checkout.*images") as caught:
        find_root("api", "workers", places=[tmp_path])
    assert exit_code(caught.value) == USAGE


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(StartError, match=r"nowserving\[worker\]"):
        require("no_module_of_this_name", "worker")


def test_children_get_what_options_changed_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    settings = load_settings(port=1234, models_file=Path("models.toml"), data_dir=Path("data"), lease_seconds=2)
    env = environment(settings, tmp_path / "root")
    assert env["NOWSERVING_PORT"] == "1234"
    assert load_settings().lease_seconds != float(env["NOWSERVING_LEASE_SECONDS"]) == 2
    assert env["NOWSERVING_MODELS_FILE"] == str(tmp_path / "models.toml")
    assert env["NOWSERVING_DATA_DIR"] == str(tmp_path / "data")
    assert (env["NOWSERVING_WEBHOOK_SECRET"], env["NOWSERVING_WEBHOOK_ALLOW"]) == ("", "")
    assert env["PYTHONPATH"] == f"{tmp_path / 'root'}{os.pathsep}/elsewhere"


def test_children_get_what_webhooks_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    secrets = (new_secret(), new_secret())
    given = {"webhook_secret": ",".join(secrets), "webhook_allow": "127.0.0.1,10.0.0.0/8"}
    env = environment(load_settings(**given, receivers_file=Path("receivers.toml")), tmp_path)
    assert env["NOWSERVING_WEBHOOK_SECRET"] == ",".join(secrets)
    assert env["NOWSERVING_WEBHOOK_ALLOW"] == "127.0.0.1,10.0.0.0/8"
    assert env["NOWSERVING_RECEIVERS_FILE"] == str(tmp_path / "receivers.toml")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("box", "http://box:80"),
    ],
)
def test_an_api_on_all_addresses_is_reached_by_loopback(host: str, url: str) -> None:
    assert make_url(host, 80) == url


def test_exit_codes_tell_usage_from_failure() -> None:
    assert [exit_code(kind("x")) for kind in (StartError, SettingsError, CatalogError)] == [USAGE] * 3
    assert exit_code(PartError("x")) == FAILED


def test_the_curl_line_is_one_line() -> None:
    line = make_curl("http://127.0.0.1:8000", "smollm2")
    assert "\n" not in line
    assert line.startswith("curl -s http://127.0.0.1:8000/v1/jobs ")
