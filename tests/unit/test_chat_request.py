import json
from typing import Any

import pytest

from api.chat_request import ChatRequest, parse_chat
from api.problem import ProblemError
from nowserving.job import Lane, Message, Parameters, Submission

HELLO = {"role": "user", "content": "hello"}


def parse(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": [HELLO], **fields}).encode())


def submission(**fields: Any) -> Submission:
    return parse(**fields).to_submission()


def test_a_bare_request_samples_as_openai_has_it_and_waits_no_longer_than_its_client() -> None:
    job = submission()
    assert (job.model, job.input.messages) == ("m", [Message(role="user", content="hello")])
    assert job.parameters == Parameters(temperature=1.0)
    assert "max_new_tokens" not in job.parameters.model_fields_set, "the model's limit may be lower"
    assert job.start_within_seconds == 540


def test_all_that_has_a_meaning_arrives() -> None:
    asked = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "END", "metadata": {"a": "b"}}
    ours = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [2], "ignore_eos": True}
    job = submission(**asked, **ours, lane="batch", start_within_seconds=9, timeout_seconds=8, retain_seconds=7)
    sampled: dict[str, Any] = {**ours, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["END"]}
    assert job.parameters == Parameters(max_new_tokens=7, **sampled)
    assert (job.lane, job.metadata) == (Lane.BATCH, {"a": "b"})
    assert (job.start_within_seconds, job.timeout_seconds, job.retain_seconds) == (9, 8, 7)
    assert submission(max_completion_tokens=7, max_tokens=7).parameters.max_new_tokens == 7


def test_messages_may_come_in_parts_by_developers_and_with_what_an_answer_had() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answered: dict[str, Any] = {
        "role": "assistant",
        "content": "c",
        "refusal": None,
        "tool_calls": [],
        "annotations": [],
    }
    job = submission(messages=[{"role": "developer", "content": parts, "name": "x"}, answered])
    assert job.input.messages == [Message(role="system", content="ab"), Message(role="assistant", content="c")]


def test_a_null_is_a_field_left_out() -> None:
    fields = [name for name in ChatRequest.model_fields if name not in ("model", "messages")]
    assert parse(**dict.fromkeys(fields)) == parse()


def test_what_says_nothing_of_the_text_is_taken() -> None:
    left = {"user": "u", "store": True, "service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "k"}
    none = {"n": 1, "logprobs": False, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}}
    zero = {"frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "parallel_tool_calls": True}
    assert submission(**left, **none, **zero) == submission()


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"n": 2}, "n", "not served; it may only be 1"),
        ({"n": True}, "n", "not served; it may only be 1"),
        ({"logprobs": 0}, "logprobs", "not served; it may only be false"),
        ({"logprobs": True}, "logprobs", "not served; it may only be false"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not served; it may only be 0"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "not served"),
        ({"tools": [{"type": "function"}]}, "tools", "not served; it may only be []"),
        ({"tool_choice": "required"}, "tool_choice", '"none" or "auto"'),
        ({"response_format": {"type": "json_object"}}, "response_format", '{"type": "text"}'),
        ({"modalities": ["text", "audio"]}, "modalities", "not served"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "give max_completion_tokens alone"),
        ({"max_new_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "named twice"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
        ({"stop": 5}, "stop", "valid array"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'system', 'developer'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "required"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content", "only text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "only text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content", "only text"),
        ({"messages": [HELLO | {"tool_call_id": "x"}]}, "messages.0.tool_call_id", "allowed are role, content, name"),
        ({"messages": [HELLO | {"tool_calls": [{}]}]}, "messages.0.tool_calls", "not served; it may only be []"),
        ({"prediction": {}}, "prediction", "not served; leave it out"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "allowed are include_usage"),
        ({"reasoning_effort": "high"}, "reasoning_effort", 'not served; it may only be "none"'),
        ({"foo": 1}, "foo", "unknown field; allowed are"),
        ({"webhook": {"url": ""}}, "webhook.url", "at least 1 character"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_field(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ProblemError) as refused:
        submission(**fields)
    assert refused.value.code == "invalid_input"
    assert refused.value.errors[0]["field"] == field
    assert words in refused.value.detail


@pytest.mark.parametrize(("body", "code"), [(b"{", "invalid_json"), (b"[]", "invalid_input"), (b"", "invalid_json")])
def test_what_is_no_object_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(ProblemError) as refused:
        parse_chat(body)
    assert refused.value.code == code
