"""A worker says on its own pod whether it is busy: a real worker, and an API server that tests can break."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nowserving import keys
from nowserving.job import Status
from nowserving.store import Store
from tests.pod_server import PodServer
from tests.scrape import OwnPort
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, noop, ready, statuses
from workers.pod import BUSY, IDLE

Eventually = Callable[..., None]

POD = "nowserving-worker-noop-1"
IDLE_POD = {name: value for name, value in IDLE.items() if value is not None}
SHORT, LONG = {"max_new_tokens": 5}, {"max_new_tokens": 20}
"""Half a second, and two."""


class PodWorker(WorkerProcess):
    """A worker in a pod, as far as it can tell; it is idle after 1 s, and waits for the API server for 0.5 s."""

    app = "tests.pod_app"

    def __init__(self, server: PodServer, redis_url: str, folder: Path) -> None:
        self.port = OwnPort()
        super().__init__(redis_url, folder, noop(source="noop:20@0.1"), worker_port=self.port.number)
        self._env |= server.environment(POD)

    def patches(self, result: str) -> float:
        """How many of its tries had this result."""
        return self.port.samples()[f"nowserving_worker_pod_patches_total {MODEL} {result}"]

    def complaints(self) -> int:
        """Lines in its log about its pod."""
        return self.output().count("the pod cannot be told")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PodServer]:
    with PodServer(tmp_path / "cluster") as made:
        yield made


@pytest.fixture
def worker(server: PodServer, redis_url: str, tmp_path: Path) -> Iterator[PodWorker]:
    with PodWorker(server, redis_url, tmp_path) as made:
        yield made


def run(live: Store, eventually: Eventually) -> None:
    """A job runs to its end as if there were no cluster."""
    job_id = enqueue(live, parameters=SHORT)
    eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 6)
    job = look(live, job_id)
    assert (job.takes, job.attempt, job.generated) == (1, 0, SHORT["max_new_tokens"])


def test_a_pod_is_busy_within_a_second_and_idle_again_once_it_is_quiet(
    live: Store, server: PodServer, worker: PodWorker, eventually: Eventually
) -> None:
    server.pods[POD] = dict(BUSY)  # what an earlier container of the pod has left
    eventually(lambda: server.pods[POD] == IDLE_POD, 20)
    eventually(lambda: ready(live), 20)
    first = enqueue(live, parameters=LONG)
    eventually(lambda: live.client.hlen(keys.BUSY + MODEL) == 1, 5)
    eventually(lambda: server.pods[POD] == BUSY, 1)
    second = enqueue(live, parameters=LONG)
    eventually(lambda: statuses(live, [first, second]) == {"succeeded": 2}, 10)
    ended_at = time.monotonic()
    assert server.pods[POD] == BUSY
    server.issue("second-token")
    eventually(lambda: server.pods[POD] == IDLE_POD, 5)
    assert time.monotonic() - ended_at > 0.5
    assert [patch.annotations for patch in server.patches] == [IDLE, BUSY, IDLE]
    path = f"/api/v1/namespaces/team-a/pods/{POD}?fieldManager=nowserving-worker"
    assert {(patch.path, patch.kind) for patch in server.patches} == {(path, "application/merge-patch+json")}
    assert (worker.patches("ok"), worker.patches("failed"), worker.patches("refused")) == (3, 0, 0)


def test_jobs_that_come_and_go_leave_it_busy(
    live: Store, server: PodServer, worker: PodWorker, eventually: Eventually
) -> None:
    eventually(lambda: server.pods.get(POD) == IDLE_POD, 20)
    for _ in range(5):
        job_id = enqueue(live, parameters={"max_new_tokens": 2})
        eventually(lambda job_id=job_id: look(live, job_id).status is Status.SUCCEEDED, 5)
        time.sleep(0.4)
    assert [patch.annotations for patch in server.patches] == [IDLE, BUSY]


@pytest.mark.parametrize("trouble", ["gone", "refusing", "slow"])
def test_whatever_the_api_server_does_jobs_run_on_and_the_newest_state_is_written_in_the_end(
    live: Store, server: PodServer, worker: PodWorker, eventually: Eventually, trouble: str
) -> None:
    eventually(lambda: server.pods.get(POD) == IDLE_POD, 20)
    first = enqueue(live, parameters=SHORT)
    eventually(lambda: server.pods[POD] == BUSY, 5)
    if trouble == "gone":
        server.stop()
    elif trouble == "slow":
        server.delay_seconds = 1.3
    else:
        server.status = 403
    eventually(lambda: look(live, first).status is Status.SUCCEEDED, 6)
    if trouble == "refusing":
        eventually(lambda: worker.patches("refused") >= 2, 8)
        assert worker.patches("failed") == 0
        server.status = 500
    eventually(lambda: worker.patches("failed") >= 2, 8)
    run(live, eventually)
    assert worker.complaints() == 1
    assert worker.patches("failed") + worker.patches("refused") < 20
    # It may look idle by now, or busy still; what counts is what is true then.
    last = enqueue(live, parameters=LONG)
    server.delay_seconds, server.status = 0.0, 200
    if trouble == "gone":
        server.start()
    eventually(lambda: look(live, last).generated > 2, 5)
    eventually(lambda: server.pods[POD] == BUSY, 2)
    eventually(lambda: server.pods[POD] == IDLE_POD, 6)
    assert worker.complaints() == 1
    assert worker.output().count("the pod is told again") == 1
    assert worker.port.probe("live") == (200, "")


def test_a_server_that_is_not_the_clusters_gets_no_token(
    live: Store, server: PodServer, worker: PodWorker, eventually: Eventually, tmp_path: Path
) -> None:
    stranger = PodServer(tmp_path / "stranger")
    (server.account / "ca.crt").write_bytes((stranger.account / "ca.crt").read_bytes())
    eventually(lambda: worker.port.probe("ready")[0] == 200, 20)
    eventually(lambda: worker.patches("failed") >= 2, 10)
    run(live, eventually)
    assert server.asked == 0
    assert "certificate verify failed" in worker.output()
    assert "first-token" not in worker.output()


def test_a_draining_worker_is_not_in_busy_and_its_pod_is_busy_to_the_end(
    live: Store, server: PodServer, worker: PodWorker, eventually: Eventually
) -> None:
    job_id = enqueue(live, parameters=LONG)
    eventually(lambda: server.pods.get(POD) == BUSY, 20)
    worker.send(signal.SIGTERM)
    eventually(lambda: live.client.hlen(keys.BUSY + MODEL) == 0, 2)
    assert look(live, job_id).status is Status.RUNNING
    assert worker.wait(10) == 0
    assert look(live, job_id).status is Status.SUCCEEDED
    assert server.pods[POD] == BUSY
