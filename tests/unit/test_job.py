import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nowserving.errors import InvalidInputError, RecordError
from nowserving.job import (
    TRANSITIONS,
    Input,
    Job,
    Parameters,
    Status,
    Submission,
    fields_of,
    is_job_id,
    job_id_of_uuid,
    new_job_id,
    rfc3339,
    tokens_at_most,
)
from nowserving.parameters import LATER

BODY = '{"model": "m", "input": {"prompt": "hello"}}'


def submission(text: str = BODY) -> Submission:
    return Submission.model_validate_json(text)


def test_ids_sort_by_time_and_are_recognized() -> None:
    ids = [new_job_id() for _ in range(50)]
    assert all(map(is_job_id, ids))
    assert len(set(ids)) == 50
    assert ids[0][:12] <= ids[-1][:12]


@given(st.uuids())
def test_every_uuid_spells_one_job_id(value: uuid.UUID) -> None:
    spelled = job_id_of_uuid(str(value))
    assert is_job_id(spelled)
    assert job_id_of_uuid(spelled) == spelled


@given(st.uuids(), st.uuids())
def test_different_uuids_spell_different_ids(one: uuid.UUID, other: uuid.UUID) -> None:
    assert (job_id_of_uuid(str(one)) == job_id_of_uuid(str(other))) == (one == other)


@pytest.mark.parametrize("text", ["", "job_", "42", "x" * 36, "job_" + "u" * 26])
def test_what_is_no_id_is_refused(text: str) -> None:
    assert not is_job_id(text)
    with pytest.raises(InvalidInputError, match="neither a UUID nor a job id"):
        job_id_of_uuid(text)


def test_terminal_statuses_are_those_that_nothing_follows() -> None:
    assert {s for s in Status if s.terminal} == {
        Status.SUCCEEDED,
        Status.FAILED,
        Status.CANCELED,
        Status.EXPIRED,
    }
    assert all(after in Status for befores in TRANSITIONS.values() for after in befores)


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "m"}',
        '{"model": "m", "input": {}}',
        '{"model": "m", "input": {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}}',
        '{"model": "m", "input": {"prompt": ""}}',
        '{"model": "m", "input": {"messages": []}}',
        '{"model": "m", "input": {"messages": [{"role": "robot", "content": "b"}]}}',
        '{"model": "m", "input": {"prompt": "a"}, "parameters": {"max_new_tokens": 0}}',
        '{"model": "m", "input": {"prompt": "a"}, "parameters": {"max_new_tokens": "5"}}',
        '{"model": "m", "input": {"prompt": "a"}, "parameters": {"temperature": NaN}}',
        '{"model": "m", "input": {"prompt": "a"}, "parameters": {"temperature": -1}}',
        '{"model": "m", "input": {"prompt": "a"}, "parameters": {"top_p": 1e999}}',
        '{"model": "m", "input": {"prompt": "a"}, "parameters": {"seed": 99999999999999999999999}}',
        '{"model": "m", "input": {"prompt": "a"}, "parameters": {"stop": [""]}}',
        '{"model": "m", "input": {"prompt": "a"}, "lane": "fast"}',
        '{"model": "m", "input": {"prompt": "a"}, "surprise": 1}',
        '{"model": "m", "input": {"prompt": "a", "surprise": 1}}',
    ],
)
def test_what_is_no_job_is_refused(body: str) -> None:
    with pytest.raises(ValidationError):
        submission(body)


def test_a_record_reads_as_it_was_written() -> None:
    fields = fields_of(submission(), seed=7) | {
        "id": new_job_id(),
        "status": "queued",
        "sequence": "3",
        "created_at": "1.500000",
    }
    job = Job.from_fields(fields)
    assert (job.input.prompt, job.parameters.seed, job.sequence, job.created_at) == ("hello", 7, 3, 1.5)


def test_the_clients_seed_is_kept() -> None:
    body = '{"model": "m", "input": {"prompt": "a"}, "parameters": {"seed": 3}}'
    assert '"seed":3' in fields_of(submission(body), seed=7)["parameters"]


OLD = '{"max_new_tokens":9,"temperature":0.5,"top_p":1.0,"top_k":0,"seed":3,"stop":["x"]%s}'
GIVEN = '{"model": "m", "input": {"prompt": "hello"}, "parameters": ' + OLD + "}"


@pytest.mark.parametrize(
    "said", ["", ',"min_p":0', ',"repetition_penalty":1,"stop_token_ids":[],"ignore_eos":false', ',"min_p":-0.0']
)
def test_a_record_is_the_previous_versions_while_nothing_later_is_used(said: str) -> None:
    assert fields_of(submission(GIVEN % said), seed=7) == {
        "v": "1",
        "model": "m",
        "lane": "normal",
        "input": '{"prompt":"hello"}',
        "parameters": OLD % "",
        "tokens": "15",
        "timeout_seconds": "600",
        "retain_seconds": "86400",
    }


@pytest.mark.parametrize(
    "said", ['"min_p":0.1', '"repetition_penalty":1.3', '"stop_token_ids":[7,7]', '"ignore_eos":true']
)
def test_a_record_that_uses_something_later_is_of_the_later_version(said: str) -> None:
    asked = submission(GIVEN % f",{said}")
    fields = fields_of(asked, seed=7)
    assert fields["v"] == "2"
    assert Parameters.model_validate_json(fields["parameters"]) == asked.parameters
    name = said.partition(":")[0]
    assert all(f'"{later}":' not in fields["parameters"] for later in LATER if f'"{later}"' != name)
    stored = {"id": "job_1", "status": "failed", "sequence": "1", "created_at": "1"}
    job = Job.from_fields(fields | stored)
    assert (job.v, job.parameters) == (2, asked.parameters)
    again = fields_of(job.to_submission(), seed=8)
    assert (again["v"], again["parameters"]) == ("2", fields["parameters"])


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"status": "odd"},
        {"input": "{"},
        {"sequence": "x"},
        {"output": '{"text":NaN}'},
        {"metadata": '{"a":[1e999]}'},
    ],
)
def test_an_unreadable_record_is_a_clear_error(broken: dict[str, str]) -> None:
    fields = fields_of(submission(), 1) | {
        "id": "job_1",
        "status": "queued",
        "sequence": "1",
        "created_at": "1",
    }
    with pytest.raises(RecordError, match="cannot be read"):
        Job.from_fields(fields | broken if broken else {})


@given(st.text(min_size=1), st.integers(1, 10_000))
def test_the_token_bound_covers_every_byte_and_every_new_token(prompt: str, new: int) -> None:
    assert tokens_at_most(Input(prompt=prompt), new) >= len(prompt.encode()) + new


def test_times_are_rfc3339_utc() -> None:
    assert rfc3339(0.25) == "1970-01-01T00:00:00.250Z"
    assert rfc3339(None) is None
