"""A real Celery worker on a real Redis: takes, gates, tells, loses and comes back."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import run

import pytest
from celery import Celery

from nowserving import keys, verb
from nowserving.job import Status, job_id_of_uuid
from nowserving.store import Store, connect
from tests.redis_server import RedisServer
from tests.worker_process import MODEL, ROOT, WorkerProcess, enqueue, look, noop, ready, statuses, workers

Eventually = Callable[..., None]
Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    def begin(catalog: str = "", **settings: object) -> WorkerProcess:
        process = WorkerProcess(redis_url, tmp_path, catalog or noop(), **{"lease_seconds": 2, **settings})
        request.addfinalizer(lambda: process.__exit__(None, None, None))
        return process.start()

    return begin


def test_jobs_run_and_the_worker_says_so(live: Store, start: Start, eventually: Eventually) -> None:
    ids = [enqueue(live) for _ in range(20)]
    start()
    eventually(lambda: statuses(live, ids) == {"succeeded": 20}, 20)
    job = look(live, ids[0])
    assert job.output is not None
    assert job.output["finish_reason"] in ("stop", "length")
    assert (job.attempt, job.takes) == (0, 1)

    def stand() -> tuple[int, ...]:
        queue = live.run(verb.queues([MODEL]))[0]
        return queue.depth, queue.running, queue.busy, queue.blocked

    assert stand()[:3] == (0, 0, 0)
    eventually(lambda: stand() == (0, 0, 0, 0), 2)  # that it is full no more, it says with its next beat
    eventually(lambda: [(worker["state"], worker["slots"]) for worker in workers(live)] == [("ready", 4)])


def test_nothing_is_taken_while_the_gate_is_closed(
    live: Store, start: Start, eventually: Eventually, tmp_path: Path
) -> None:
    probe = tmp_path / "memory"
    probe.write_text("0 1000")
    start(memory_probe=f"file:{probe}", memory_limit_bytes=900)
    eventually(lambda: ready(live), 20)
    running = enqueue(live)
    eventually(lambda: look(live, running).status is Status.SUCCEEDED)

    probe.write_text("950 1000")
    ids = [enqueue(live) for _ in range(100)]
    time.sleep(0.1)  # what was under way when it closed may have been taken and released
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert statuses(live, ids) == {"queued": 100}
    assert live.run(verb.queues([MODEL]))[0].blocked == 1
    gate = {"open": False, "reason": "gpu_memory"}
    eventually(lambda: workers(live)[0]["gate"] == gate)
    ping = run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "inspect", "ping", "--timeout", "5"],
        env={
            "PATH": "",
            "PYTHONPATH": str(ROOT),
            "NOWSERVING_REDIS_URL": _url(live),
        },
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert "pong" in ping.stdout, ping.stderr

    probe.write_text("0 1000")
    opened = time.monotonic()
    eventually(lambda: "queued" not in statuses(live, ids[:1]))
    assert time.monotonic() - opened < 0.5
    eventually(lambda: statuses(live, ids) == {"succeeded": 100})


def test_a_second_worker_takes_what_a_closed_one_leaves(
    live: Store, start: Start, eventually: Eventually, tmp_path: Path
) -> None:
    probe = tmp_path / "memory"
    probe.write_text("950 1000")
    start(memory_probe=f"file:{probe}", memory_limit_bytes=900)
    eventually(lambda: len(workers(live)) == 1, 20)
    ids = [enqueue(live) for _ in range(100)]
    start()
    eventually(lambda: statuses(live, ids) == {"succeeded": 100}, 20)


def test_a_head_that_does_not_fit_stays_with_its_reason_and_then_runs(
    live: Store, start: Start, eventually: Eventually
) -> None:
    # 1,000 bytes a token, room for 400 tokens in all; a job of 3 s holds 300 of them.
    start(noop(source="noop:30@0.1,1000/400000"))
    eventually(lambda: ready(live), 20)
    first = enqueue(live, parameters={"max_new_tokens": 290})
    eventually(lambda: look(live, first).status is Status.RUNNING)
    second = enqueue(live, parameters={"max_new_tokens": 290})
    eventually(lambda: workers(live)[0]["gate"] == {"open": False, "reason": "ledger"})
    wait = live.run(verb.look(second)).wait
    assert wait is not None
    assert wait.workers[0]["gate"]["reason"] == "ledger"
    assert live.run(verb.queues([MODEL]))[0].blocked == 1
    live.run(verb.cancel(first))
    eventually(lambda: look(live, second).status is Status.RUNNING)
    live.run(verb.cancel(second))
    eventually(lambda: live.run(verb.queues([MODEL]))[0].blocked == 0)


def test_a_running_job_stops_within_a_second_of_its_cancel(live: Store, start: Start, eventually: Eventually) -> None:
    start(noop(slots=1, source="noop:1000@0.02"), lease_seconds=15)
    job_id = enqueue(live, parameters={"max_new_tokens": 1000})
    eventually(lambda: look(live, job_id).generated > 0, 20)
    live.run(verb.cancel(job_id))
    canceled = time.monotonic()
    following = enqueue(live, parameters={"max_new_tokens": 1000})
    eventually(lambda: look(live, following).status is Status.RUNNING)
    assert time.monotonic() - canceled < 1
    assert look(live, job_id).status is Status.CANCELED


def test_another_worker_goes_on_at_the_next_token(live: Store, start: Start, eventually: Eventually) -> None:
    source = "noop:40@0.05"
    both = [start(noop(source=source)) for _ in range(2)]
    eventually(lambda: ready(live, 2), 30)
    job_id = enqueue(live, parameters={"max_new_tokens": 40})
    eventually(lambda: look(live, job_id).generated > 5, 20)
    # A worker's name is its host, its process and a random part.
    runs_in = str(look(live, job_id).worker).split(":")[-2]
    next(worker for worker in both if str(worker.pid) == runs_in).kill()
    killed = time.monotonic()
    eventually(lambda: look(live, job_id).takes == 2, 10)
    assert time.monotonic() - killed < 4  # lease + 2 s
    eventually(lambda: look(live, job_id).status is Status.SUCCEEDED)
    indexes: list[int] = []
    text = ""
    for event in live.run(verb.read_events({job_id: "0"}))[job_id]:
        if event.type == "token":
            assert event.data["index"] == len(indexes)
            indexes += event.data["ids"]
            text += event.data["text"]
    output = look(live, job_id).output
    assert output is not None
    assert text == output["text"]
    assert len(indexes) == 40


def test_a_stopping_worker_hands_its_jobs_back_uncharged(live: Store, start: Start, eventually: Eventually) -> None:
    worker = start(noop(source="noop:1000@0.05"), drain_seconds=1)
    ids = [enqueue(live, parameters={"max_new_tokens": 1000}) for _ in range(4)]
    eventually(lambda: all(look(live, job_id).generated > 0 for job_id in ids), 20)
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert statuses(live, ids) == {"queued": 4}
    assert [look(live, job_id).attempt for job_id in ids] == [0, 0, 0, 0]
    assert workers(live) == []
    left = [key for key in live.client.scan_iter("nowserving:*") if "held" in key or "busy" in key or "alive" in key]
    assert left == []


def test_a_worker_outlives_a_restart_of_redis(
    own_redis: RedisServer, start: Start, eventually: Eventually, tmp_path: Path
) -> None:
    with WorkerProcess(own_redis.url, tmp_path, noop(source="noop:20@0.05"), lease_seconds=2) as worker:
        store = Store(connect(own_redis.url))
        eventually(lambda: ready(store), 20)
        before = [enqueue(store, parameters={"max_new_tokens": 20}) for _ in range(8)]
        eventually(lambda: look(store, before[0]).generated > 2)
        own_redis.kill()
        own_redis.start()
        after = [enqueue(store, parameters={"max_new_tokens": 20}) for _ in range(8)]
        eventually(lambda: statuses(store, before + after) == {"succeeded": 16}, 30)
        assert worker.alive
        store.close()


def test_send_task_from_any_celery_client_enqueues_a_job(live: Store, start: Start, eventually: Eventually) -> None:
    app = Celery(broker=_url(live))
    app.conf.broker_transport = "workers.transport:Transport"
    queue = keys.queue(MODEL)
    kwargs = {"input": {"prompt": "hello"}, "parameters": {"max_new_tokens": 1}}
    result = app.send_task("nowserving.generate", kwargs=kwargs, queue=queue)
    job_id = job_id_of_uuid(result.id)
    assert look(live, job_id).status is Status.QUEUED
    wrongs: list[dict[str, object]] = [{"input": {}}, {"input": {"prompt": "x"}, "surprise": 1}]
    for wrong in wrongs:
        with pytest.raises(Exception, match=r"input|surprise"):
            app.send_task("nowserving.generate", kwargs=wrong, queue=queue, retry=False)
    with pytest.raises(Exception, match="takes the task"):
        app.send_task("other.task", queue=queue, retry=False)
    assert live.client.zcard(queue) == 1
    app.close()
    start()
    eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 20)


def test_a_task_without_a_valid_claim_refuses(live: Store, start: Start, eventually: Eventually) -> None:
    worker = start()
    eventually(lambda: ready(live), 20)
    job_id = enqueue(live)
    eventually(lambda: look(live, job_id).status is Status.SUCCEEDED)
    before = live.client.hgetall(keys.JOB + job_id)
    check = "from workers.app import generate\ngenerate('job_x', 'no-claim')"
    refused = run(
        [sys.executable, "-c", check],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "NOWSERVING_REDIS_URL": _url(live)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ClaimLostError" in refused.stderr
    assert live.client.hgetall(keys.JOB + job_id) == before
    assert worker.alive


def test_an_idle_worker_costs_redis_little(own_redis: RedisServer, eventually: Eventually, tmp_path: Path) -> None:
    store = Store(connect(own_redis.url))
    commands: list[str] = []
    settle_seconds = 2.0  # Celery's own start goes on for a moment after the worker is ready
    with WorkerProcess(own_redis.url, tmp_path, noop(), lease_seconds=15):
        eventually(lambda: ready(store), 20)
        with store.client.monitor() as monitor:  # type: ignore[no-untyped-call]
            began = time.monotonic()
            while time.monotonic() - began < settle_seconds + 6:
                command = monitor.next_command() if monitor.connection.can_read(timeout=0.5) else None
                settled = time.monotonic() - began > settle_seconds
                if command and settled and command["client_type"] != "lua":
                    commands.append(command["command"].split()[0])
    store.close()
    assert len(commands) / 6 <= 5, Counter(commands)


def test_an_idle_worker_starts_a_job_at_once(live: Store, start: Start, eventually: Eventually) -> None:
    start(lease_seconds=15)
    eventually(lambda: ready(live), 20)
    waits = []
    for _ in range(30):
        job_id = enqueue(live)
        eventually(lambda job_id=job_id: look(live, job_id).status is Status.SUCCEEDED)
        job = look(live, job_id)
        assert job.started_at is not None
        waits.append(job.started_at - job.created_at)
    assert sorted(waits)[len(waits) // 2] < 0.01


@pytest.mark.parametrize(
    ("queues", "says"),
    [
        ("nowserving:queue:unknown", "there is no model 'unknown'"),
        ("celery", "-Q must name one of nowserving:queue:"),
    ],
)
def test_a_worker_of_no_model_says_so_and_exits(redis_url: str, queues: str, says: str) -> None:
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", queues]
    env = {
        "PYTHONPATH": str(ROOT),
        "NOWSERVING_REDIS_URL": redis_url,
        "HOME": "/nonexistent",
    }
    ended = run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 78
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def _url(store: Store) -> str:
    options = store.client.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/{options.get('db', 0)}"
