"""One job after another on a server that behaves, or does not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from nowserving.errors import EngineError, InvalidInputError, TooLargeError
from tests.conftest import Eventually
from tests.openai_engine import model_of, prompt_of, running, submit, words
from tests.scripted_server import ScriptedServer
from workers.engines.engine import UNKNOWN, FinishReason
from workers.engines.openai import OpenAIEngine


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
def engine(server: ScriptedServer) -> Iterator[OpenAIEngine]:
    with running(model_of(url=server.url)) as started:
        server.requests.clear()
        yield started


@pytest.mark.parametrize("chat", [False, True])
def test_a_job_streams_to_its_end(engine: OpenAIEngine, chat: bool) -> None:
    heard = submit(engine, prompt_of("say 5", chat=chat))
    end = heard.end()
    assert (end.reason, end.text) == (FinishReason.STOP, words(0, 5))
    assert (end.prompt_tokens, end.completion_tokens) == (2, 6)
    assert heard.text == end.text
    assert heard.ids == [0, 1, 2, 3, 4, UNKNOWN]  # the end of the text has no id, but is counted
    assert heard.begins == [0]


def test_parameters_are_sent_and_those_that_change_nothing_are_not(
    engine: OpenAIEngine, server: ScriptedServer
) -> None:
    server.quirks.strict = False
    submit(engine, prompt_of("say 5", temperature=0.5, seed=7, top_p=0.9, top_k=3, stop=["x"])).end()
    submit(engine, prompt_of("say 5", seed=7)).end()
    sent = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "return_token_ids": True}
    sent |= {"model": "scripted", "prompt": "say 5", "stream": True, "max_tokens": 20}
    assert server.requests[0] == {**sent, "temperature": 0.5, "top_p": 0.9, "seed": 7, "top_k": 3, "stop": ["x"]}
    assert server.requests[1] == {**sent, "temperature": 0.0, "top_p": 1.0}


def test_what_the_server_rejects_fails_that_job_alone(engine: OpenAIEngine) -> None:
    error = submit(engine, prompt_of("say 5", top_k=3)).end().error
    assert isinstance(error, InvalidInputError)
    assert "Unexpected fields" in error.message
    assert "top_k" in error.message
    assert submit(engine, prompt_of("say 5")).end().error is None


@pytest.mark.parametrize(
    ("prompt", "kind", "says"),
    [
        ("status 400 no such thing", InvalidInputError, r"refuses it \(400\): no such thing"),
        ("status 400 maximum context length is 8", TooLargeError, "maximum context length is 8"),
        ("status 500 it broke", EngineError, r"\(500\): it broke"),
        ("status 403 no", EngineError, r"\(403\)"),
        ("status 400 " + "long " * 2000, InvalidInputError, "…$"),
        ("cut 9", EngineError, "broke off"),
        ("end 9", EngineError, "broke off .*ended before"),
        ("hang 9", EngineError, "made no token for 0.5 s"),
        ("garbage 9", EngineError, 'no JSON: .*a "quote"'),
        ("list 9", EngineError, r"no chunk: \[1\]"),
        ("error 9", InvalidInputError, "out of range"),
        ("fault 9", EngineError, "it broke"),
        ("abort 9", EngineError, "gave up on the job: abort"),
        ("plain 9", EngineError, "text/event-stream"),
    ],
)
def test_failures_are_told_apart(engine: OpenAIEngine, prompt: str, kind: type[EngineError], says: str) -> None:
    heard = submit(engine, prompt_of(prompt))
    end = heard.end()
    assert end.reason is FinishReason.ERROR
    assert end.error is not None
    assert type(end.error) is kind
    with pytest.raises(kind, match=says):
        raise end.error
    assert len(end.error.message) < 600
    assert heard.text == end.text == (words(0, 3) if prompt.endswith(" 9") and "plain" not in prompt else "")
    assert engine.health() == engine.health().__class__(True, engine.health().steps)


def test_a_busy_server_is_asked_again_and_the_gate_closes_meanwhile(
    engine: OpenAIEngine, server: ScriptedServer, eventually: Eventually
) -> None:
    server.quirks.busy = 2
    heard = submit(engine, prompt_of("say 5"))
    eventually(lambda: engine.health().full == "the server takes no more jobs now")
    assert heard.end().text == words(0, 5)
    assert len(heard.begins) == 1
    eventually(lambda: engine.health().full == "")
    server.quirks.busy = 1000
    error = submit(engine, prompt_of("say 5")).end().error
    assert type(error) is EngineError
    assert "(429): too many" in error.message


def test_a_cancel_hangs_up(engine: OpenAIEngine, server: ScriptedServer, eventually: Eventually) -> None:
    server.quirks.seconds = 0.01
    heard = submit(engine, prompt_of("say 1000", max_new_tokens=1000))
    assert heard.first.wait(5)
    began = time.monotonic()
    engine.cancel("job_say_1000")
    assert heard.end().reason is FinishReason.CANCELED
    assert time.monotonic() - began < 0.5
    assert heard.text == heard.end().text != ""
    eventually(lambda: server.cut == 1)
    engine.cancel("job_say_1000")
    engine.cancel("nobody")


def test_a_cancel_right_after_the_submit_ends_the_job_too(engine: OpenAIEngine) -> None:
    for _ in range(20):
        heard = submit(engine, prompt_of("hang 9"))
        engine.cancel("job_hang_9")
        assert heard.end().reason is FinishReason.CANCELED


def test_a_job_ends_at_its_timeout(engine: OpenAIEngine, server: ScriptedServer) -> None:
    server.quirks.seconds = 0.02
    end = submit(engine, prompt_of("say 1000", timeout_seconds=0.3, max_new_tokens=1000)).end()
    assert end.reason is FinishReason.TIMEOUT
    assert 0 < end.completion_tokens < 1000


def test_a_stop_string_never_leaks(engine: OpenAIEngine, server: ScriptedServer) -> None:
    server.quirks.seconds = 0.001
    heard = submit(engine, prompt_of("say 1000", stop=["3 w4"], max_new_tokens=1000))
    end = heard.end()
    assert (end.reason, end.text) == (FinishReason.STOP, " w0 w1 w2 w")
    assert heard.text == end.text
    assert (end.completion_tokens, heard.ids) == (5, [0, 1, 2, 3, 4])


def test_what_was_held_back_for_a_stop_string_comes_at_the_end(engine: OpenAIEngine) -> None:
    heard = submit(engine, prompt_of("say 5", stop=["w4 w5"]))
    assert heard.end().text == heard.text == words(0, 5)


def test_a_server_that_does_not_stop_is_left(engine: OpenAIEngine, server: ScriptedServer) -> None:
    server.quirks.seconds = 0.001
    heard = submit(engine, prompt_of("forever 5000", max_new_tokens=10))
    end = heard.end()
    assert end.reason is FinishReason.LENGTH
    assert end.completion_tokens == 10
    assert len(heard.texts) < 25


@pytest.mark.parametrize("done", [False, True])
def test_without_counts_each_piece_is_a_token(engine: OpenAIEngine, server: ScriptedServer, done: bool) -> None:
    server.quirks.usage, server.quirks.ids, server.quirks.done = False, False, done
    heard = submit(engine, prompt_of("say 5"))
    end = heard.end()
    assert (end.reason, end.completion_tokens, end.prompt_tokens) == (FinishReason.STOP, 5, 0)
    assert heard.ids == [UNKNOWN] * 5


@pytest.mark.parametrize("chat", [False, True])
def test_a_job_goes_on_after_its_text(engine: OpenAIEngine, server: ScriptedServer, chat: bool) -> None:
    heard = submit(engine, prompt_of("say 30", made=[UNKNOWN] * 4, made_text=words(0, 5), chat=chat))
    end = heard.end()
    assert (end.reason, end.text) == (FinishReason.LENGTH, words(0, 20))
    assert (end.prompt_tokens, end.completion_tokens) == (2, 20)
    assert heard.text == words(5, 20)
    assert len(heard.ids) == 16, "all attempts together have as many as are counted"
    assert server.requests[-1]["max_tokens"] == 15


def test_a_job_whose_limit_was_reached_already_only_ends(engine: OpenAIEngine, server: ScriptedServer) -> None:
    prompt = prompt_of("say 30", made=[UNKNOWN] * 20, made_text=words(0, 20))
    end = submit(engine, prompt).end()
    assert (end.reason, end.text, end.completion_tokens) == (FinishReason.LENGTH, words(0, 20), 20)
    assert not any(request.get("stream") for request in server.requests)


def test_halves_of_surrogate_pairs_do_no_harm(engine: OpenAIEngine) -> None:
    assert submit(engine, prompt_of(r"text 1 \ud83d")).end().text == "�"
    assert submit(engine, prompt_of(r"text 1 \ud83d\ude00")).end().text == "\U0001f600"


def test_a_closed_engine_ends_its_jobs_and_takes_no_more(server: ScriptedServer) -> None:
    with running(model_of(url=server.url)) as engine:
        heard = submit(engine, prompt_of("hang 9"))
        engine.close()
        assert heard.end().reason is FinishReason.CANCELED
        assert not engine.health().alive
        with pytest.raises(EngineError, match="not running"):
            submit(engine, prompt_of("say 5"))
