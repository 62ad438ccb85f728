"""Chat completions as OpenAI's own client sees them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import openai
import pytest

from nowserving import keys, verb
from nowserving.job import Status
from tests.api_server import MODEL, ApiServer
from tests.chats import HELLO, ask, begin, read, status, text_of, waiters
from tests.fake_worker import FakeWorker

Eventually = Callable[..., None]


def test_a_chat_is_a_job_whose_text_is_the_answer(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    asked = aside(ask, chats, max_tokens=9, temperature=0, metadata={"a": "b"})
    job_id = begin(worker, eventually)
    job = worker.store.run(verb.look(job_id)).job
    assert job.input.messages
    assert (job.input.messages[0].content, job.parameters.max_new_tokens, job.metadata) == ("hello", 9, {"a": "b"})
    worker.tokens(job_id, 0, "a", "b")
    worker.finish(job_id, "ab")
    answer = asked.result(15)
    assert (answer.id, answer.model) == (job_id.replace("job_", "chatcmpl-"), MODEL)
    assert answer._request_id == job_id, "what a person needs to find the job"
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "ab", "stop")
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 1, 4)
    assert answer.created == int(job.created_at)


def test_a_stream_brings_the_text_as_it_is_made(
    api: ApiServer, chats: openai.OpenAI, worker: FakeWorker, eventually: Eventually
) -> None:
    stream = chats.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    assert stream.response.headers["x-request-id"] == begin(worker, eventually)
    job_id = stream.response.headers["x-request-id"]
    chunks = [next(stream)]
    assert chunks[0].choices[0].delta.role == "assistant"
    for i, text in enumerate("ab"):
        worker.tokens(job_id, i, text)
        chunks.append(next(stream))
        assert text_of(chunks[-1:]) == text, "before the next is made"
    worker.finish(job_id, "ab")
    chunks += list(stream)
    assert text_of(chunks) == "ab"
    assert {chunk.id for chunk in chunks} == {job_id.replace("job_", "chatcmpl-")}
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [None, None, None, "stop"]
    assert [chunk.usage is None for chunk in chunks] == [True, True, True, True, False]
    assert chunks[-1].usage
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 4)
    eventually(lambda: waiters(api) == 0)


def test_a_stream_without_usage_ends_with_its_reason(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    asked = aside(read, chats)
    worker.finish(begin(worker, eventually), "")
    chunks = asked.result(15)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_a_job_that_goes_on_at_another_worker_is_one_text(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    asked = aside(read, chats)
    job_id = begin(worker, eventually)
    worker.tokens(job_id, 0, "a")
    worker.release(job_id)
    assert worker.begin() == job_id
    worker.tokens(job_id, 1, "b")
    worker.finish(job_id, "ab")
    assert text_of(asked.result(15)) == "ab"


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_that_begins_anew_is_no_answer_once_it_was_seen(
    chats: openai.OpenAI,
    worker: FakeWorker,
    aside: Callable[..., Future[Any]],
    eventually: Eventually,
    text: str,
) -> None:
    asked = aside(read, chats)
    job_id = begin(worker, eventually)
    worker.tokens(job_id, 0, text)
    worker.release(job_id)
    assert worker.begin(anew=True) == job_id
    if text:
        with pytest.raises(openai.APIError) as error:
            asked.result(15)
        assert error.value.code == "restarted"
        eventually(lambda: status(worker, job_id) is Status.CANCELED)  # it asks once more, or not at all
    else:
        worker.tokens(job_id, 0, "b")
        worker.finish(job_id, "b")
        assert text_of(asked.result(15)) == "b"


def test_a_text_that_began_anew_before_anybody_read_it_is_whole(
    chats: openai.OpenAI, worker: FakeWorker, aside: Callable[..., Future[Any]], eventually: Eventually
) -> None:
    key = {"Idempotency-Key": "k"}
    asked = aside(ask, chats, extra_headers=key)
    job_id = begin(worker, eventually)
    worker.tokens(job_id, 0, "a")
    worker.release(job_id)
    assert worker.begin(anew=True) == job_id
    worker.tokens(job_id, 0, "b")
    late = aside(read, chats, extra_headers=key)
    eventually(lambda: worker.store.client.pubsub_numsub(keys.events(job_id))[0][1] == 1)
    worker.tokens(job_id, 1, "c")
    worker.finish(job_id, "bc")
    assert asked.result(15).choices[0].message.content == "bc"
    assert text_of(late.result(15)) == "bc"
    assert text_of(read(chats, extra_headers=key)) == "bc"


def test_a_model_is_found_by_its_name(chats: openai.OpenAI) -> None:
    assert chats.models.retrieve(MODEL).id == MODEL
    assert [model.id for model in chats.models.list()] == [MODEL]
    with pytest.raises(openai.NotFoundError) as error:
        chats.models.retrieve("none")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    assert "there are: noop" in error.value.message
