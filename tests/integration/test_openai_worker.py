"""Workers whose engine is a server, and what becomes of jobs when it dies, is full, or the worker dies: real ones."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil

from nowserving import verb
from nowserving.event import is_terminal
from nowserving.job import Status, Submission, fields_of, new_job_id
from nowserving.store import Store, connect
from tests.child_process import ROOT
from tests.conftest import Eventually
from tests.invariant import Observer, story
from tests.openai_engine import words
from tests.scripted_server import ScriptedServer
from tests.worker_process import MODEL, WorkerProcess, enqueue, look, noop, ready, statuses, workers

TOKENS = 40


def catalog(**quirks: object) -> str:
    """A child whose text takes 3 s, and which knows a prompt's own words only."""
    quirks = {"seconds": 0.05, **quirks}
    environment = f"{{ PYTHONPATH = {json.dumps(str(ROOT))}, QUIRKS = '{json.dumps(quirks)}' }}"
    command = json.dumps([sys.executable, "-m", "tests.scripted_server", "{port}"])
    return f'[models.{MODEL}]\nengine = "openai"\nslots = 8\ncommand = {command}\nenvironment = {environment}\n'


def kill_server(worker: WorkerProcess, *before: int) -> int:
    """kill -9 of the worker's server, which is none of those before; its process id."""
    [leash] = psutil.Process(worker.pid).children()
    [server] = leash.children()
    assert server.pid not in before
    server.kill()
    return server.pid


def chat(store: Store, content: str) -> str:
    """Put a job of one message into the queue; its id."""
    body = {"model": MODEL, "input": {"messages": [{"role": "user", "content": content}]}}
    submission = Submission.model_validate({**body, "parameters": {"max_new_tokens": TOKENS}})
    return store.run(verb.enqueue(new_job_id(), MODEL, fields_of(submission, 1), max_depth=1000)).job_id


def last_story(store: Store, job_id: str) -> tuple[int, str]:
    """The tokens and the text since the last `restarted`; each index must come once and in order."""
    tokens, text = 0, ""
    events = store.run(verb.read_events({job_id: "0"}))[job_id]
    for event in events:
        if event.type == "restarted":
            tokens, text = 0, ""
        if event.type == "token":
            assert event.data["index"] == tokens
            tokens += len(event.data["ids"])
            text += event.data["text"]
    assert sum(is_terminal(event.type) for event in events) == 1
    return tokens, text


def test_a_servers_death_loses_no_job_and_doubles_none(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    with WorkerProcess(redis_url, tmp_path, catalog(ids=False), lease_seconds=2.0) as worker:
        eventually(lambda: ready(live), 30)
        parameters = {"max_new_tokens": TOKENS}
        ids = [enqueue(live, f"say {TOKENS}", parameters=parameters) for _ in range(12)]
        with Observer(Store(connect(redis_url)), ids) as observer:
            eventually(lambda: sum(look(live, one).generated > 3 for one in ids) == 8, 30)
            first = kill_server(worker)
            eventually(lambda: worker.output().count("the gate is open") == 1, 30)
            eventually(lambda: sum(look(live, one).generated > 20 for one in ids) >= 4, 30)
            kill_server(worker, first)
            eventually(lambda: statuses(live, ids) == {"succeeded": 12}, 60)
        assert observer.wrong == []
        assert observer.looks > 100
        assert worker.alive
        assert "the server was ended by SIGKILL" in worker.output()
        assert "the gate is closed: engine (the server" in worker.output()
    for job_id in ids:
        assert story(live, job_id) == (TOKENS, words(0, TOKENS), 1)
        again = [event.data for event in live.run(verb.read_events({job_id: "0"}))[job_id] if event.type == "queued"]
        assert {event.get("cause") for event in again} <= {"engine", "gate_closed_engine"}
        job = look(live, job_id)
        assert job.output is not None
        assert job.output["usage"] == {"prompt_tokens": 2, "completion_tokens": TOKENS}
        assert job.output["text"] == words(0, TOKENS)


def test_where_a_chat_cannot_go_on_its_readers_are_told(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    with WorkerProcess(redis_url, tmp_path, catalog(continues=False), lease_seconds=2.0) as worker:
        eventually(lambda: ready(live), 30)
        job_id = chat(live, f"say {TOKENS}")
        eventually(lambda: look(live, job_id).generated > 3, 30)
        kill_server(worker)
        eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 30)
    kinds = [event.type for event in live.run(verb.read_events({job_id: "0"}))[job_id]]
    assert kinds.count("restarted") == 1
    assert last_story(live, job_id) == (TOKENS, words(0, TOKENS))


def test_a_killed_workers_jobs_go_on_at_another(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    with WorkerProcess(redis_url, tmp_path, catalog(), lease_seconds=2.0) as worker:
        job_id = enqueue(live, f"say {TOKENS}", parameters={"max_new_tokens": TOKENS})
        eventually(lambda: look(live, job_id).generated > 3, 30)
        [leash] = psutil.Process(worker.pid).children()
        worker.send(signal.SIGKILL)
        eventually(lambda: not leash.is_running(), 10)
    with WorkerProcess(redis_url, tmp_path, catalog(), lease_seconds=2.0):
        eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 30)
    assert story(live, job_id) == (TOKENS, words(0, TOKENS), 1)


def test_a_job_that_kills_every_server_fails_alone(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    with WorkerProcess(redis_url, tmp_path, catalog(), lease_seconds=2.0) as worker:
        eventually(lambda: ready(live), 30)
        good = [enqueue(live, f"say {TOKENS}", parameters={"max_new_tokens": TOKENS}) for _ in range(4)]
        eventually(lambda: all(look(live, job_id).generated for job_id in good), 30)
        poison = enqueue(live, "die")
        eventually(lambda: look(live, poison).status is Status.FAILED, 60)
        eventually(lambda: statuses(live, good) == {"succeeded": 4}, 30)
        assert worker.alive
    error = look(live, poison).error
    assert error is not None
    assert error["code"] == "engine_lost"
    for job_id in good:
        assert story(live, job_id) == (TOKENS, words(0, TOKENS), 1)


def test_the_servers_metrics_close_the_gate_and_its_memory_does_not(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    page = "sglang:token_usage {}\nsglang:max_total_num_tokens 5000\n"
    probe = tmp_path / "memory"
    probe.write_text("999 1000")  # the server has all of it, and 0.9 is allowed
    with ScriptedServer(metrics=page.format(0.1)) as server:
        table = f'[models.{MODEL}]\nengine = "openai"\nurl = "{server.url}"\n'
        with WorkerProcess(redis_url, tmp_path, table, memory_probe=f"file:{probe}"):
            job_id = enqueue(live, "say 5")
            eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 30)
            server.quirks.metrics = page.format(0.99)
            eventually(lambda: workers(live)[0]["gate"] == {"open": False, "reason": "gpu_memory"}, 10)
            waiting = enqueue(live, "say 5")
            eventually(lambda: live.client.zcard(f"nowserving:blocked:{MODEL}") == 1, 5)
            assert look(live, waiting).status is Status.QUEUED
            server.quirks.metrics = page.format(0.5)
            eventually(lambda: look(live, waiting).status is Status.SUCCEEDED, 10)


def test_a_server_that_never_comes_up_ends_the_worker_with_one_sentence(
    redis_url: str, live: Store, tmp_path: Path
) -> None:
    table = f'[models.{MODEL}]\nengine = "openai"\ncommand = ["no-such-server", "{{port}}"]\n'
    with WorkerProcess(redis_url, tmp_path, table) as worker:
        assert worker.wait(30) == os.EX_CONFIG
        assert "the server's program 'no-such-server' is not found" in worker.output()
        assert "Traceback" not in worker.output()


def test_another_engine_does_not_go_on_after_tokens_without_ids(
    redis_url: str, live: Store, tmp_path: Path, eventually: Eventually
) -> None:
    with WorkerProcess(redis_url, tmp_path, catalog(ids=False), lease_seconds=2.0, drain_seconds=0) as worker:
        job_id = enqueue(live, f"say {TOKENS}", parameters={"max_new_tokens": TOKENS})
        eventually(lambda: look(live, job_id).generated > 3, 30)
        worker.send(signal.SIGTERM)
        assert worker.wait(20) == 0
    with WorkerProcess(redis_url, tmp_path, noop(source="noop:5"), lease_seconds=2.0):
        eventually(lambda: look(live, job_id).status is Status.SUCCEEDED, 30)
    assert last_story(live, job_id) == (5, "w0 w1 w2 w3 w4")
