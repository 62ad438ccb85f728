"""Bad input over HTTP: always problem+json with a stable code, and a sentence that says what is allowed."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from nowserving.job import new_job_id
from tests.api_server import MODEL, ApiServer
from tests.fake_worker import FakeWorker

JSON = {"Content-Type": "application/json"}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["detail"]
    assert body["title"]
    return body


def body(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": {"prompt": "hello"}, **changes}


def parameters(**named: Any) -> dict[str, Any]:
    return body(parameters=named)


@pytest.mark.parametrize(
    ("sent", "field", "says"),
    [
        (body(input={"prompt": "a", "messages": [{"role": "user", "content": "b"}]}), "input", "exactly one"),
        (body(input={}), "input", "exactly one"),
        (body(input={"prompt": ""}), "input.prompt", "at least 1 character"),
        (body(input={"messages": []}), "input.messages", "at least 1"),
        (body(input={"prompt": 7}), "input.prompt", "string"),
        (body(input="hello"), "input", "object"),
        (body(input={"messages": [{"role": "robot", "content": "a"}]}), "input.messages.0.role", "'user'"),
        (body(input={"messages": [{"role": "user"}]}), "input.messages.0.content", "required"),
        (body(model=None), "model", "string"),
        (body(model=""), "model", "at least 1"),
        (body(modle="x"), "modle", "allowed are model, input"),
        (body(input={"prompt": "a", "text": "b"}), "input.text", "allowed are prompt, messages"),
        (parameters(max_tokens=1), "parameters.max_tokens", "allowed are max_new_tokens"),
        (parameters(max_new_tokens=0), "parameters.max_new_tokens", "greater than or equal to 1"),
        (parameters(max_new_tokens=-1), "parameters.max_new_tokens", "greater than or equal to 1"),
        (parameters(max_new_tokens=1.5), "parameters.max_new_tokens", "integer"),
        (parameters(max_new_tokens="5"), "parameters.max_new_tokens", "integer"),
        (parameters(max_new_tokens=True), "parameters.max_new_tokens", "integer"),
        (parameters(max_new_tokens=10**30), "parameters.max_new_tokens", "less than or equal to"),
        (parameters(max_new_tokens=513), "parameters.max_new_tokens", "allows 1 to 512"),
        (parameters(temperature=-0.1), "parameters.temperature", "greater than or equal to 0"),
        (parameters(temperature=1e308), "parameters.temperature", "less than or equal to 10"),
        (parameters(top_p=0), "parameters.top_p", "greater than 0"),
        (parameters(top_k=-1), "parameters.top_k", "greater than or equal to 0"),
        (parameters(seed=2**63), "parameters.seed", "less than"),
        (parameters(seed=-1), "parameters.seed", "greater than or equal to 0"),
        (parameters(stop="a"), "parameters.stop", "array"),
        (parameters(stop=[""]), "parameters.stop.0", "at least 1"),
        (parameters(stop=["a"] * 17), "parameters.stop", "at most 16"),
        (parameters(min_p=-0.1), "parameters.min_p", "greater than or equal to 0"),
        (parameters(min_p=1.01), "parameters.min_p", "less than or equal to 1"),
        (parameters(min_p="0.1"), "parameters.min_p", "number"),
        (parameters(repetition_penalty=0), "parameters.repetition_penalty", "greater than or equal to 0.01"),
        (parameters(repetition_penalty=10.1), "parameters.repetition_penalty", "less than or equal to 10"),
        (parameters(stop_token_ids=5), "parameters.stop_token_ids", "array"),
        (parameters(stop_token_ids=[5, -1]), "parameters.stop_token_ids.1", "greater than or equal to 0"),
        (parameters(stop_token_ids=[1.5]), "parameters.stop_token_ids.0", "integer"),
        (parameters(stop_token_ids=[True]), "parameters.stop_token_ids.0", "integer"),
        (parameters(stop_token_ids=[1] * 65), "parameters.stop_token_ids", "at most 64"),
        (parameters(ignore_eos=1), "parameters.ignore_eos", "boolean"),
        (body(lane="fast"), "lane", "'normal' or 'batch'"),
        (body(start_within_seconds=0), "start_within_seconds", "greater than 0"),
        (body(timeout_seconds=1e12), "timeout_seconds", "less than or equal to"),
        (body(metadata={"a": 1}), "metadata.a", "string"),
        (body(metadata={"a": "x" * 513}), "metadata.a", "at most 512"),
        ([body()], "body", "object"),
        ("hello", "body", "object"),
        (None, "body", "object"),
    ],
)
def test_a_wrong_field_is_named(api: ApiServer, sent: object, field: str, says: str) -> None:
    said = problem(api.http.post("/v1/jobs", content=json.dumps(sent), headers=JSON), 422, "invalid_input")
    assert said["errors"][0]["field"] == field
    assert says in said["errors"][0]["message"]
    assert field in said["detail"]


def test_every_wrong_field_is_named(api: ApiServer) -> None:
    sent = {"input": {"prompt": "a"}, "parameters": {"temperature": -1, "top_p": 2}}
    said = problem(api.http.post("/v1/jobs", json=sent), 422, "invalid_input")
    fields = {error["field"] for error in said["errors"]}
    assert fields == {"model", "parameters.temperature", "parameters.top_p"}


def test_what_has_too_many_wrong_fields_to_name_them_is_told_how_many(api: ApiServer) -> None:
    sent = {"input": {"prompt": "a"}, **{f"wrong{i}": i for i in range(2000)}}
    said = problem(api.http.post("/v1/jobs", json=sent), 422, "invalid_input")
    assert said["detail"].startswith("2001 values are wrong")


@pytest.mark.parametrize("name", ["temperature", "min_p", "repetition_penalty"])
@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_none_are_refused(api: ApiServer, name: str, number: bytes) -> None:
    sent = b'{"model":"noop","input":{"prompt":"a"},"parameters":{"%b":%b}}' % (name.encode(), number)
    said = problem(api.http.post("/v1/jobs", content=sent, headers=JSON), 422, "invalid_input")
    assert said["errors"][0]["field"] == f"parameters.{name}"


@pytest.mark.parametrize(
    "sent",
    [b"", b"{", b"{'a': 1}", b"\xff\xfe", b'{"model":"noop"', b"[" * 100_000, b'{"model":"\\ud800"}', b"1" * 5000],
)
def test_what_is_not_json_is_refused(api: ApiServer, sent: bytes) -> None:
    problem(api.http.post("/v1/jobs", content=sent, headers=JSON), 400, "invalid_json")


def test_what_is_compressed_is_refused(api: ApiServer) -> None:
    sent = {**JSON, "Content-Encoding": "gzip"}
    said = problem(api.http.post("/v1/jobs", content=b"x", headers=sent), 415, "unsupported_media_type")
    assert "Content-Encoding: gzip" in said["detail"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_what_is_not_called_json_is_refused(api: ApiServer, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    sent = b'{"model":"noop","input":{"prompt":"a"}}'
    problem(api.http.post("/v1/jobs", content=sent, headers=headers), 415, "unsupported_media_type")


def test_an_unknown_model_is_refused_with_the_known_ones(api: ApiServer) -> None:
    said = problem(api.http.post("/v1/jobs", json=body(model="nix")), 422, "unknown_model")
    assert "noop" in said["detail"]


def test_a_large_body_is_refused_by_its_announced_length(api: ApiServer) -> None:
    said = problem(api.submit("x" * 1_048_576), 413, "payload_too_large")
    assert "1048576" in said["detail"]


def test_a_large_body_of_no_announced_length_is_refused_once_it_is_too_large(api: ApiServer) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        # The end of the body is never sent.
        connection.sendall(head + chunk * 17)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert api.submit().status_code == 202


def test_a_body_just_within_the_limit_is_accepted(api: ApiServer) -> None:
    assert api.submit("x" * 1_048_000).status_code == 202


@pytest.mark.parametrize(
    "job_id", ["nix", "job_", "job_" + "i" * 26, "job_" + "0" * 27, "JOB_" + "0" * 26, "%00", "🦉"]
)
def test_a_malformed_job_id_is_refused(api: ApiServer, job_id: str) -> None:
    problem(api.http.get(f"/v1/jobs/{job_id}"), 422, "invalid_job_id")
    problem(api.http.get(f"/v1/jobs/{job_id}/events"), 422, "invalid_job_id")
    problem(api.http.post(f"/v1/jobs/{job_id}/cancel"), 422, "invalid_job_id")


def test_an_unknown_job_is_not_found(api: ApiServer) -> None:
    job_id = new_job_id()
    problem(api.http.get(f"/v1/jobs/{job_id}"), 404, "job_not_found")
    problem(api.http.get(f"/v1/jobs/{job_id}?wait=5"), 404, "job_not_found")
    problem(api.http.get(f"/v1/jobs/{job_id}/events"), 404, "job_not_found")
    problem(api.http.post(f"/v1/jobs/{job_id}/cancel"), 404, "job_not_found")


def test_a_finished_job_cannot_be_canceled(api: ApiServer, worker: FakeWorker) -> None:
    job_id = api.submit_id()
    worker.finish(worker.begin())
    said = problem(api.http.post(f"/v1/jobs/{job_id}/cancel"), 409, "job_finished")
    assert "succeeded" in said["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=done", "status"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=-1", "cursor"),
        ("cursor=99999999999999999999", "cursor"),
        (f"model={'m' * 129}", "model"),
    ],
)
def test_a_wrong_query_of_the_list_is_refused(api: ApiServer, query: str, field: str) -> None:
    said = problem(api.http.get(f"/v1/jobs?{query}"), 422, "invalid_query")
    assert said["errors"][0]["field"] == field


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "soon", ""])
def test_a_wrong_wait_is_refused(api: ApiServer, wait: str) -> None:
    problem(api.http.get(f"/v1/jobs/{new_job_id()}?wait={wait}"), 422, "invalid_query")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_wrong_idempotency_key_is_refused(api: ApiServer, key: str) -> None:
    problem(api.submit(headers={"Idempotency-Key": key}), 422, "invalid_header")


def test_what_is_not_there_is_a_problem_too(api: ApiServer) -> None:
    for path in ("/nix", "/v1/jobs/", "/v1", "/"):
        problem(api.http.get(path), 404, "not_found")


def test_a_wrong_method_is_a_problem_that_says_the_right_ones(api: ApiServer) -> None:
    answer = api.http.delete("/v1/jobs")
    problem(answer, 405, "method_not_allowed")
    assert {method.strip() for method in answer.headers["allow"].split(",")} == {"GET", "POST"}
    answer = api.http.get(f"/v1/jobs/{new_job_id()}/cancel")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
