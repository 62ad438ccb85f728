"""Models from a hub, over real HTTP, by the hub's own client, each time in a fresh process as workers are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nowserving.job import Status
from nowserving.store import Store, connect
from tests.hub_server import HubServer
from tests.tiny import make_model, make_tokenizer
from tests.worker_process import MODEL, ROOT, WorkerProcess, enqueue, look

Eventually = Callable[..., None]

FETCH = """
import json, sys
from nowserving.errors import NowservingError
from workers.engines.hub import fetch
said, pauses = [], []
try:
    found = str(fetch(sys.argv[1], sys.argv[2] or None, lambda *words: said.append(words), pauses.append))
    error = None
except NowservingError as refusal:
    found, error = None, [refusal.code, refusal.message]
print(json.dumps([found, error, said, pauses]))
"""


@dataclass(frozen=True)
class Fetched:
    folder: Path | None
    code: str
    message: str
    fractions: list[float]
    pauses: list[float]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    folder = tmp_path / "repository"
    make_model().save_pretrained(folder, max_shard_size="150KB")
    make_tokenizer().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"old")
    (folder / "README.md").write_text("hello")
    with HubServer(folder) as server:
        yield server


@pytest.fixture
def env(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*", "HF_HUB_OFFLINE": "0"}


@pytest.fixture
def fetch(env: dict[str, str]) -> Callable[..., Fetched]:
    def run(source: str = "owner/name", revision: str = "", **changes: str) -> Fetched:
        ended = subprocess.run(
            [sys.executable, "-c", FETCH, source, revision],
            env={**env, "PYTHONPATH": str(ROOT), **changes},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        folder, error, said, pauses = json.loads(ended.stdout.splitlines()[-1])
        code, message = error or ("", "")
        assert "\n" not in message
        fractions = [fraction for phase, fraction in said if phase == "download" and fraction is not None]
        return Fetched(folder and Path(folder), code, message, fractions, pauses)

    return run


def test_what_is_needed_is_fetched_once_and_its_bytes_are_counted(
    hub: HubServer, fetch: Callable[..., Fetched]
) -> None:
    fetched = fetch()
    assert fetched.folder is not None
    names = {file.name for file in fetched.folder.iterdir()}
    assert "model.safetensors.index.json" in names
    assert names.isdisjoint({"pytorch_model.bin", "README.md"})
    assert len([name for name in names if name.endswith(".safetensors")]) >= 3
    assert fetched.fractions == sorted(fetched.fractions)
    assert len(fetched.fractions) >= 5
    assert fetched.fractions[-1] == 1
    hub.asked.clear()
    again = fetch(revision="v1")
    assert (again.folder, again.fractions) == (fetched.folder, [])
    assert not [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


def test_offline_only_the_cache_is_asked(hub: HubServer, fetch: Callable[..., Fetched]) -> None:
    lacking = fetch(HF_HUB_OFFLINE="1")
    assert lacking.code == "engine_error"
    assert "run `hf download owner/name` where that may be asked, or unset HF_HUB_OFFLINE" in lacking.message
    folder = fetch().folder
    hub.asked.clear()
    assert fetch(HF_HUB_OFFLINE="1").folder == folder
    assert hub.asked == []
    assert folder is not None
    next(folder.glob("*.safetensors")).unlink()
    assert "is not whole in" in fetch(HF_HUB_OFFLINE="1").message


def test_a_hub_that_does_not_answer_is_asked_again_and_the_cache_is_enough(
    hub: HubServer, fetch: Callable[..., Fetched]
) -> None:
    hub.failures = 1000
    away = fetch()
    assert (away.code, away.pauses) == ("engine_unavailable", [1, 2, 4, 8])
    assert f"the hub {hub.url} does not answer" in away.message
    assert len([line for line in hub.asked if "owner/name" in line]) == 5
    assert fetch(HF_ENDPOINT="http://127.0.0.1:1").code == "engine_unavailable"
    hub.failures = 2
    came = fetch()
    assert came.folder is not None
    assert came.pauses == [1, 2]
    hub.failures = 1000
    assert fetch().folder == came.folder


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((403, "GatedRepo"), "is gated: ask for access at http"),
        ((401, "GatedRepo"), "set HF_TOKEN to a token of the account that has it"),
        ((404, "RepoNotFound"), "there is no model 'owner/name' on http"),
        ((401, "RepoNotFound"), "or it is private: mend the source, or set HF_TOKEN to a token that may read it"),
        ((403, ""), "the hub refuses model 'owner/name' (403): set HF_TOKEN"),
    ],
)
def test_a_refusal_is_told_at_once_and_says_what_to_do(
    hub: HubServer, fetch: Callable[..., Fetched], refusal: tuple[int, str], says: str
) -> None:
    hub.refusal = refusal
    refused = fetch(HF_TOKEN="hf_secret")
    assert (refused.code, refused.pauses) == ("engine_error", [])
    assert says in refused.message
    assert "hf_secret" not in refused.message


def test_what_the_hub_does_not_have_is_named(fetch: Callable[..., Fetched]) -> None:
    assert "has no revision 'v9': name a branch, a tag or a commit" in fetch(revision="v9").message
    assert "there is no model 'owner/other'" in fetch("owner/other").message
    assert "neither a folder nor a hub id" in fetch("owner/-name-").message


def test_a_worker_fetches_a_private_model_with_the_token_of_its_environment(
    hub: HubServer,
    env: dict[str, str],
    redis_url: str,
    tmp_path: Path,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.token = "hf_secret"
    for name in ("HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, env[name])
    catalog = f'[models.{MODEL}]\nsource = "owner/name"\nrevision = "v1"\ndevice = "cpu"\nthreads = 1\n'
    with WorkerProcess(redis_url, tmp_path, catalog) as refused:
        assert refused.wait(60) == os.EX_CONFIG
        assert "there is no model 'owner/name'" in refused.output()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    store = Store(connect(redis_url))
    with WorkerProcess(redis_url, tmp_path, catalog) as worker:
        job_id = enqueue(store, parameters={"max_new_tokens": 3})
        eventually(lambda: look(store, job_id).status is Status.SUCCEEDED, 60)
        words = worker.output().split(" is ready: ")[1].splitlines()[0]
        phases = [part.split()[0] for part in words.partition("; ")[2].split(", ")]
        assert phases == ["import", "download", "load", "warm-up"]
        assert hub.token not in worker.output()
    store.close()
