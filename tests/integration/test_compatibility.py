"""Workers and API of the previous version beside those of this one, on one Redis, with jobs in flight.

A rolling upgrade is just that. The previous version is the newest commit whose code differs from the working tree's, or
what NOWSERVING_TEST_PREVIOUS names.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nowserving import keys
from nowserving.client import ApiError, Client
from nowserving.job import VERSION, Status
from nowserving.secret import new_secret
from nowserving.store import Store
from tests.api_process import ApiProcess
from tests.child_process import ROOT
from tests.invariant import story
from tests.worker_process import MODEL, WorkerProcess, look, noop, ready, statuses

Eventually = Callable[..., None]

TOKENS = 40
SOURCE = noop(slots=4, source=f"noop:{TOKENS}@0.2")
"""Slow enough that jobs outlast the start of a worker on a busy machine."""
TEXT = " ".join(f"w{index}" for index in range(TOKENS))
HOOK = "https://93.184.215.14/hook"
"""An address that nobody looks up; the jobs here are over before a deliverer is there to call it."""
CODE = ("nowserving", "api", "workers")
LOOK_BACK = 200


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True).stdout


def previous() -> str:
    """The commit to compare with; skips where there is no history."""
    if named := os.environ.get("NOWSERVING_TEST_PREVIOUS"):
        return named
    try:
        commits = git("rev-list", f"--max-count={LOOK_BACK}", "HEAD").decode().split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout: there is no previous version to run")
    for commit in commits:
        if git("diff", "--name-only", commit, "--", *CODE):
            return commit
    pytest.skip("the history is too short to have a previous version")


def unpack(commit: str, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, *CODE))) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 has it
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous version's code."""
    return unpack(previous(), tmp_path_factory.mktemp("previous"))


def previous_format() -> str:
    """The newest commit whose code writes records of the version before this one's; skips if it is too far back."""
    try:
        commits = git("rev-list", f"--max-count={LOOK_BACK}", "HEAD", "--", "nowserving/job.py").decode().split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout: there is no previous version to run")
    for commit in commits:
        if f"\nVERSION = {VERSION - 1}\n".encode() in git("show", f"{commit}:nowserving/job.py"):
            return commit
    pytest.skip("the history is too short to have a version that writes records of the previous format")


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code that cannot read this version's records."""
    return unpack(previous_format(), tmp_path_factory.mktemp("previous-format"))


def read(url: str, job_id: str) -> tuple[list[int], str, list[str]]:
    """What a reader sees: the indexes of tokens, their text, and the types of the terminal events."""
    indexes: list[int] = []
    text, ends = "", []
    with Client(url) as client:
        for event in client.stream(job_id):
            if event.type == "token":
                indexes += range(event.data["index"], event.data["index"] + len(event.data["ids"]))
                text += event.text
            elif event.terminal:
                ends.append(event.type)
    return indexes, text, ends


@pytest.mark.parametrize("new_first", [True, False], ids=["new worker first", "previous worker first"])
def test_both_versions_work_side_by_side(
    live: Store, redis_url: str, older: Path, tmp_path: Path, eventually: Eventually, new_first: bool
) -> None:
    settings = {"lease_seconds": 2}
    apis = [ApiProcess(redis_url, tmp_path, SOURCE, **settings) for _ in range(2)]
    first, second, third = (WorkerProcess(redis_url, tmp_path, SOURCE, **settings) for _ in range(3))
    # What one version has begun the other goes on with, twice.
    for process in (apis[1], *([second] if new_first else [first, third])):
        process.root = older
    with apis[0], apis[1], first, ThreadPoolExecutor(8) as pool:
        clients = [Client(api.url, retry_seconds=20) for api in apis]
        eventually(lambda: ready(live), 30)
        ids = [clients[i % 2].submit(MODEL, prompt="hello", max_new_tokens=TOKENS).id for i in range(8)]
        readers = [pool.submit(read, apis[i // 2 % 2].url, job_id) for i, job_id in enumerate(ids)]
        eventually(lambda: sum(look(live, job_id).generated > 3 for job_id in ids) >= 4, 20)
        for job_id in ids:
            # Neither a reader nor whoever goes on with the job may stumble over an event that it does not know.
            live.client.xadd(keys.events(job_id), {"type": "progress", "at": "1", "stage": "prefill", "done": "1"})
        first.kill()
        # No worker lives: the tick that the two APIs share lets the jobs go back.
        eventually(lambda: statuses(live, ids) == {"queued": 8}, 15)
        with second, third:
            eventually(lambda: len({look(live, job_id).worker for job_id in ids} - {None}) == 2, 30)
            made = {job_id: look(live, job_id).generated for job_id in ids}
            eventually(lambda: all(look(live, job_id).generated > made[job_id] + 3 for job_id in ids), 20)
            second.kill()
            for client, job_id in zip(clients * 4, ids, strict=True):
                assert client.wait(job_id, 60).status is Status.SUCCEEDED
            late = [client.submit(MODEL, prompt="hello", max_new_tokens=TOKENS).id for client in clients * 2]
            clients[0].cancel(late[3])
            clients[1].cancel(late[2])
            found = [client.wait(job_id, 60).status for client, job_id in zip(clients * 2, late, strict=True)]
            assert found == ["succeeded"] * 2 + ["canceled"] * 2
            seen = [reader.result(30) for reader in readers]
        for client in clients:
            client.close()
    assert sum(look(live, job_id).takes for job_id in ids) >= 16, "the kills have hit too few running jobs"
    assert seen == [(list(range(TOKENS)), TEXT, ["succeeded"])] * 8
    assert [story(live, job_id) for job_id in ids] == [(TOKENS, TEXT, 1)] * 8


def test_a_job_that_only_this_version_can_read_waits_for_a_worker_that_knows_them(
    live: Store, redis_url: str, oldest: Path, tmp_path: Path, eventually: Eventually
) -> None:
    new_api, old_api = (ApiProcess(redis_url, tmp_path, SOURCE, webhook_secret=new_secret()) for _ in range(2))
    old_worker, new_worker = (WorkerProcess(redis_url, tmp_path, SOURCE, lease_seconds=2) for _ in range(2))
    for process in (old_api, old_worker):
        process.root = oldest
    with new_api, old_api, old_worker, Client(new_api.url) as new, Client(old_api.url) as old:
        eventually(lambda: ready(live), 30)
        later = new.submit(MODEL, prompt="hello", max_new_tokens=TOKENS, webhook=HOOK).id
        plain = [client.submit(MODEL, prompt="hello", max_new_tokens=5, min_p=None).id for client in (new, old) * 2]
        # They have come after it, and go past it.
        assert {client.wait(job_id, 30).status for client in (new, old) for job_id in plain} == {Status.SUCCEEDED}
        assert (look(live, later).status, look(live, later).v) == (Status.QUEUED, VERSION)
        assert new.get(later).status is Status.QUEUED
        assert {job.id for job in new.jobs().jobs} == {later, *plain}
        assert {job.id for job in old.jobs().jobs} >= set(plain)
        with new_worker:
            assert new.wait(later, 60).status is Status.SUCCEEDED
            assert look(live, later).worker not in {look(live, job_id).worker for job_id in plain}
        assert read(new_api.url, later) == (list(range(TOKENS)), TEXT, ["succeeded"])
        canceled = new.submit(MODEL, prompt="hello", webhook=HOOK).id
        with pytest.raises(ApiError, match="newer"):
            old.cancel(canceled)
        assert new.cancel(canceled).status is Status.CANCELED
