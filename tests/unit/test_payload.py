"""A webhook's body: always whole JSON under 20,000 bytes, whatever the job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowserving.describe import describe_job
from nowserving.errors import RecordError
from nowserving.job import Job, Submission, fields_of
from nowserving.payload import LIMIT_BYTES, MESSAGE_LENGTH, compose
from nowserving.receiver import Receiver, write_receivers
from nowserving.secret import new_secret

JOB = "job_01k0000000000000000000000a"
USAGE = {"prompt_tokens": 37, "completion_tokens": 8}
OUTPUT = {"text": "The capital of France is Paris.", "finish_reason": "stop", "usage": USAGE}

TEXT = st.text(st.characters(), max_size=60) | st.builds(
    lambda text, times: text * times, st.text(st.characters(), min_size=1, max_size=3), st.just(4000)
)
"""Also what is long, and of any character there is, surrogates among them."""
VALUE = st.builds(lambda text: (text * 512)[:512], st.text(min_size=1, max_size=2)) | st.text(max_size=512)
METADATA = st.dictionaries(st.text(max_size=64), VALUE, max_size=16)
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "stop": st.lists(st.builds(lambda c: c * 256, st.characters(codec="utf-8")), max_size=16),
        "stop_token_ids": st.lists(st.integers(0, 2**63), max_size=64),
        "seed": st.integers(0, 2**63 - 1),
    },
)


def record(submission: Submission | None = None, **fields: str) -> dict[str, str]:
    """A job's fields in Redis."""
    submission = submission or Submission.model_validate({"model": "smollm2", "input": {"prompt": "hello"}})
    more = {
        "id": JOB,
        "status": "succeeded",
        "sequence": "1",
        "created_at": "1700000000",
        "finished_at": "1700000002.5",
    }
    return {**fields_of(submission, seed=7), **more, **fields}


def delivery(job: dict[str, str], **fields: str) -> dict[str, str]:
    """A delivery's fields in Redis."""
    said = {name: value for name, value in job.items() if name != "input"}
    named = {"id": "dlv_01k0000000000000000000000a_succeeded", "event": "job.succeeded", "created_at": "1700000002.5"}
    return {**named, "said": json.dumps(said), **fields}


def read(body: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return dict(json.loads(body.decode(), parse_constant=refuse))


def test_it_is_the_job_as_get_shows_it() -> None:
    job = record(output=json.dumps(OUTPUT), metadata='{"order":"42"}')
    body = compose(delivery(job))
    assert b'{"type":"job.succeeded","timestamp":"2023-11-14T22:13:22.500Z","data":{"id":"job_' in body
    event = read(body)
    assert set(event) == {"type", "timestamp", "data"}
    assert event["data"] == describe_job(Job.from_fields(job))
    assert event["data"]["urls"]["self"] == f"/v1/jobs/{JOB}"


def test_links_are_absolute_where_the_api_says_who_it_is() -> None:
    urls = read(compose(delivery(record()), "https://jobs.example/base/"))["data"]["urls"]
    assert urls["self"] == f"https://jobs.example/base/v1/jobs/{JOB}"
    assert urls["events"] == f"https://jobs.example/base/v1/jobs/{JOB}/events"


def test_it_keeps_the_receivers_secret() -> None:
    secret = new_secret()
    receiver = Receiver(url="https://a.example", host="a.example:443", limit=8, secret=secret)
    fields = delivery(record(webhook=write_receivers((receiver,))), secret=secret)
    assert secret in fields["said"]
    assert secret.encode() not in compose(fields)


def test_the_text_is_left_out_first() -> None:
    metadata = {f"key {number}": "v" * 500 for number in range(16)}
    output = json.dumps({**OUTPUT, "text": "€" * 5000})
    data = read(compose(delivery(record(output=output, metadata=json.dumps(metadata)))))["data"]
    assert data["omitted"] == ["output.text"]
    assert data["output"] == {"text": None, "finish_reason": "stop", "usage": USAGE}
    assert data["metadata"] == metadata
    assert data["parameters"]["seed"] == 7


def test_then_parameters_and_metadata_and_the_end_of_the_error() -> None:
    metadata = {f"key {number}": "€" * 512 for number in range(16)}
    error = json.dumps({"code": "engine_error", "message": "why " * 6000, "retryable": True})
    job = record(status="failed", output=json.dumps(OUTPUT), error=error, metadata=json.dumps(metadata))
    data = read(compose(delivery(job)))["data"]
    assert data["omitted"] == ["output.text", "parameters", "metadata", "error.message"]
    assert data["parameters"] is data["metadata"] is None
    assert data["error"] == {
        "code": "engine_error",
        "message": ("why " * 6000)[:MESSAGE_LENGTH] + "…",
        "retryable": True,
    }


def test_a_text_that_the_record_has_left_out_is_named() -> None:
    data = read(compose(delivery(record(output_bytes="30000"))))["data"]
    assert data["omitted"] == ["output.text"]
    assert data["output"] == {"text": None, "finish_reason": None, "usage": None}
    kept = json.dumps({"finish_reason": "stop", "usage": USAGE})
    data = read(compose(delivery(record(output=kept, output_bytes="30000"))))["data"]
    assert data["output"] == {"text": None, "finish_reason": "stop", "usage": USAGE}


def test_parameters_that_the_record_has_left_out_are_named() -> None:
    job = record()
    del job["parameters"]
    data = read(compose(delivery(job)))["data"]
    assert data["omitted"] == ["parameters"]
    assert data["parameters"] is None


@given(metadata=METADATA, parameters=PARAMETERS, text=TEXT, message=TEXT, model=st.text(min_size=1, max_size=128))
def test_every_job_fits_and_can_be_read_back(
    metadata: dict[str, str], parameters: dict[str, Any], text: str, message: str, model: str
) -> None:
    submission = Submission.model_validate(
        {"model": model, "input": {"prompt": "p"}, "parameters": parameters, "metadata": metadata}
    )
    output = {**OUTPUT, "text": text}
    error = {"code": "engine_error", "message": message, "retryable": True}
    job = record(submission, status="failed", output=json.dumps(output), error=json.dumps(error))
    body = compose(delivery(job))
    assert len(body) < LIMIT_BYTES
    assert body == compose(delivery(dict(reversed(job.items()))))
    data = read(body)["data"]
    omitted = data.pop("omitted", [])
    shown: dict[str, Any] = {**describe_job(Job.from_fields(job))}
    if "output.text" in omitted:
        shown["output"]["text"] = None
    for name in {"parameters", "metadata"} & set(omitted):
        shown[name] = None
    if "error.message" in omitted:
        assert data["error"]["message"] == message[:MESSAGE_LENGTH] + "…"
        shown["error"]["message"] = data["error"]["message"]
    assert data == shown


def test_a_surrogate_with_no_partner_is_said_as_json_says_it() -> None:
    job = record(output='{"text":"a\\ud800é"}')
    body = compose(delivery(job))
    assert "a\\ud800é".encode() in body
    assert read(body)["data"]["output"]["text"] == "a\ud800é"


@pytest.mark.parametrize(
    "spoiled",
    [
        {"said": ""},
        {"said": "[]"},
        {"said": "{}"},
        {"said": "7"},
        {"said": "[" * 100_000},
        {"said": json.dumps({**record(), "status": "asleep"})},
        {"said": json.dumps({**record(), "attempt": 1})},
        {"said": json.dumps(record(output='{"text":NaN}'))},
        {"said": json.dumps(record(output="[]"))},
        {"said": json.dumps(record(metadata="7"))},
        {"said": json.dumps(record(retry_of="x" * 30_000))},
        {"created_at": "yesterday"},
        {"created_at": "nan"},
        {"created_at": "1e300"},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_what_is_no_delivery_is_refused(spoiled: dict[str, str]) -> None:
    with pytest.raises(RecordError, match=r"the record of .+ cannot be read"):
        compose(delivery(record(), **spoiled))


def test_a_record_without_its_parts_is_refused() -> None:
    for name in ("said", "event", "created_at"):
        fields = delivery(record())
        del fields[name]
        with pytest.raises(RecordError, match=name):
            compose(fields)
