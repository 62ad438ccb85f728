"""What a server's chunks become, however they are cut, and what becomes of those that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowserving.errors import EngineError, InvalidInputError, NowservingError, TooLargeError
from tests.openai_engine import Heard, prompt_of
from workers.engines.engine import UNKNOWN, FinishReason
from workers.engines.openai_chunk import WORDS_CHARACTERS, Chunk, Usage, parse_chunk, refusal
from workers.engines.openai_text import SLACK_TOKENS, Transcript
from workers.engines.stop import StopMatcher

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "error": JSON,
        "usage": JSON | st.fixed_dictionaries({"prompt_tokens": JSON, "completion_tokens": JSON}),
        "choices": JSON
        | st.lists(
            st.fixed_dictionaries(
                {}, optional={"text": JSON, "delta": JSON, "token_ids": JSON, "finish_reason": JSON, "message": JSON}
            )
        ),
    },
)


@given(st.text() | JSON.map(json.dumps) | CHUNKS.map(json.dumps))
def test_whatever_a_server_sends_is_a_chunk_or_an_error(data: str) -> None:
    said: Chunk | str
    try:
        said = parse_chunk(data)
    except NowservingError as error:
        said = error.message
    if isinstance(said, str):
        assert len(said) < WORDS_CHARACTERS + 60
    else:
        said.text.encode()
        assert said.usage is None or said.usage.completion_tokens >= 0


@given(st.integers(100, 599), st.text() | JSON.map(json.dumps))
def test_every_refusal_has_words(status: int, body: str) -> None:
    error = refusal(status, body)
    assert str(status) in error.message
    blames_job = status in range(400, 500) and status not in (401, 403, 408, 429)
    assert isinstance(error, InvalidInputError | TooLargeError) == blames_job


@pytest.mark.parametrize(
    ("document", "chunk"),
    [
        ({"choices": [{"text": "a", "token_ids": [5, 6]}]}, Chunk("a", (5, 6))),
        ({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}, Chunk("a", finish="stop")),
        ({"choices": [{"delta": {"role": "assistant"}}]}, Chunk()),
        ({"choices": [{"delta": {"content": None, "reasoning_content": "hm"}}]}, Chunk(thought=True)),
        ({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}, Chunk(usage=Usage(3, 4))),
        ({"choices": [{"text": "a"}], "usage": None}, Chunk("a")),
        ({"choices": [{"text": "a", "token_ids": [-1]}]}, Chunk("a")),
        ({"choices": [{"text": "a"}], "usage": {"prompt_tokens": True}}, Chunk("a")),
    ],
)
def test_chunks_of_all_servers_are_read(document: dict[str, Any], chunk: Chunk) -> None:
    assert parse_chunk(json.dumps(document)) == chunk


@pytest.mark.parametrize("data", ["", "[1]", '{"choices": 7}', '{"choices": [7]}', '{"choices": [{"text": 7}]}'])
def test_what_is_no_chunk_is_said(data: str) -> None:
    with pytest.raises(EngineError, match="the server sent what is no"):
        parse_chunk(data)


PIECES = st.lists(st.text("ab\n", max_size=3), max_size=12)


@given(PIECES, st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3), st.booleans(), st.booleans())
def test_texts_and_counts_hold_however_the_text_is_cut(
    pieces: list[str], stops: list[str], exact: bool, usage: bool
) -> None:
    heard = Heard()
    transcript = Transcript(prompt_of("p", stop=stops, max_new_tokens=100), heard)
    for number, piece in enumerate(pieces):
        transcript.take(Chunk(piece, (number,) if exact else None))
    transcript.take(Chunk(finish="stop"))
    if usage:
        transcript.take(Chunk(usage=Usage(7, len(pieces) + 1)))
    end = transcript.close()
    matcher = StopMatcher(stops)
    text, stopped = matcher.feed("".join(pieces))
    assert end.text == heard.text == text + ("" if stopped else matcher.flush())
    assert not any(stop in end.text for stop in stops)
    assert end.reason is FinishReason.STOP
    assert end.prompt_tokens == (7 if usage else 0)
    assert end.completion_tokens >= len([token for token in heard.ids if token != UNKNOWN])
    if usage and not stopped:
        assert len(heard.ids) == end.completion_tokens == len(pieces) + 1


@given(st.integers(0, 30), st.integers(1, 10), st.integers(0, 12), st.integers(0, 12))
def test_a_resumed_job_never_counts_over_its_limit(pieces: int, most: int, made: int, made_tokens: int) -> None:
    heard = Heard()
    transcript = Transcript(prompt_of("p", [UNKNOWN] * made, "x" * made, max_new_tokens=most), heard)
    transcript.resume(5, made_tokens)
    taken = 0
    while taken < pieces and transcript.finish is None:
        transcript.take(Chunk("y"))
        taken += 1
    end = transcript.close()
    assert end.text == "x" * made + "y" * taken
    assert end.prompt_tokens == 5
    assert end.completion_tokens == min(most, made_tokens + taken)
    assert taken <= max(0, most - made_tokens) + SLACK_TOKENS + 1


def test_counts_in_mid_stream_say_how_many_tokens_a_piece_is() -> None:
    heard = Heard()
    transcript = Transcript(prompt_of("p", max_new_tokens=10), heard)
    transcript.take(Chunk("abc", usage=Usage(5, 3)))
    transcript.take(Chunk("d", usage=Usage(5, 4)))
    assert transcript.new == 4
    transcript.take(Chunk(finish="length", usage=Usage(5, 10)))
    end = transcript.close()
    assert (end.reason, end.completion_tokens, end.text) == (FinishReason.LENGTH, 10, "abcd")
    assert heard.ids == [UNKNOWN] * 10


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk("more ", usage=Usage(1, 0)),
        Chunk("more ", ids=()),
        Chunk("more ", usage=Usage(1, 1000)),
        Chunk("x" * 100_000, ids=(7,)),
        Chunk("more ", ids=tuple(range(1000))),
    ],
)
def test_a_server_that_does_not_stop_is_cut_whatever_it_says_of_its_tokens(chunk: Chunk) -> None:
    heard = Heard()
    transcript = Transcript(prompt_of("say 4", max_new_tokens=4), heard)
    for _ in range(4 + SLACK_TOKENS + 1):
        transcript.take(chunk)
    assert transcript.finish is FinishReason.LENGTH
    assert transcript.close().completion_tokens == len(heard.ids) <= 4
