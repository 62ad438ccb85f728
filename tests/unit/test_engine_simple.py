"""The base for users' own engines: every promise of the protocol, kept for whoever writes `load` and `generate`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nowserving.catalog import Model
from nowserving.errors import EngineError, EngineUnavailableError, InvalidInputError, TooLargeError
from nowserving.job import Input, Parameters
from tests.tiny import Collected
from workers.engines.engine import FinishReason, Prompt
from workers.engines.simple import SimpleEngine


class Letters(SimpleEngine):
    """Says its prompt again and again, letter by letter; some prompts harm it."""

    resumes = True

    def __init__(self, slots: int = 4) -> None:
        super().__init__(Model(name="m", engine="noop", slots=slots))
        self.gate = threading.Event()
        self.gate.set()
        self.closed: list[str] = []
        self.harm: Callable[[str], None] = lambda text: None

    def load(self) -> None:
        self.harm("load")

    def generate(self, prompt: Prompt) -> Iterator[tuple[int, str]]:
        text = prompt.input.prompt or ""
        try:
            for index in range(len(prompt.made), 1_000_000):
                assert self.gate.wait(30)
                self.harm(text)
                if text.startswith("short") and index >= len(text):
                    return
                yield ord(text[index % len(text)]), text[index % len(text)]
        finally:
            self.closed.append(prompt.job_id)

    def text_of(self, token: int) -> str:
        return chr(token)


def prompt_of(text: str, made: tuple[int, ...] = (), timeout_seconds: float = 60, **parameters: Any) -> Prompt:
    return Prompt(text, Input(prompt=text), Parameters(**({"max_new_tokens": 12} | parameters)), timeout_seconds, made)


def submit(engine: SimpleEngine, prompt: Prompt) -> Collected:
    sink = Collected()
    engine.submit(engine.prepare(prompt), sink)
    return sink


@contextmanager
def started(slots: int = 4) -> Iterator[Letters]:
    engine = Letters(slots)
    engine.start()
    yield engine
    engine.gate.set()
    engine.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Letters]:
    with started() as engine:
        yield engine


def test_jobs_run_side_by_side_and_each_has_one_end(shared: Letters) -> None:
    sinks = [submit(shared, prompt_of(text)) for text in ("abc", "short", "xyz")]
    ends = [sink.wait() for sink in sinks]
    assert [end.text for end in ends] == ["abcabcabcabc", "short", "xyzxyzxyzxyz"]
    assert [end.reason for end in ends] == [FinishReason.LENGTH, FinishReason.STOP, FinishReason.LENGTH]
    assert [(end.prompt_tokens, end.completion_tokens) for end in ends] == [(3, 12), (5, 5), (3, 12)]
    assert [sink.text for sink in sinks] == [end.text for end in ends]
    assert [len(sink.ends) for sink in sinks] == [1] * 3


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("ab", min_size=1, max_size=4),
    short=st.booleans(),
    stop=st.lists(st.text("abst", min_size=1, max_size=3), max_size=3),
    most=st.integers(1, 9),
    at=st.integers(0, 9),
)
def test_streamed_texts_are_the_result_whole_or_resumed_anywhere(
    shared: Letters, text: str, short: bool, stop: list[str], most: int, at: int
) -> None:
    text = f"short{text}" if short else text
    sink = submit(shared, prompt_of(text, stop=stop, max_new_tokens=most))
    end = sink.wait()
    plain = (text * 9)[: min(most, len(text) if short else most)]
    starts = [(plain.index(word) + len(word), plain.index(word)) for word in stop if word in plain]
    assert end.text == sink.text == (plain[: min(starts)[1]] if starts else plain)
    assert [index for index, _, _ in sink.batches] == list(range(end.completion_tokens))
    made = sink.ids[:at]
    resumed = submit(shared, prompt_of(text, made, stop=stop, max_new_tokens=most))
    assert resumed.wait() == end
    assert resumed.batches == sink.batches[len(made) :]


def test_a_canceled_and_a_late_job_end_and_their_generators_are_closed() -> None:
    with started() as engine:
        canceled, other = submit(engine, prompt_of("abc", max_new_tokens=900_000)), submit(engine, prompt_of("xyz"))
        canceled.wait_for_tokens(3)
        engine.cancel("abc")
        engine.cancel("unknown")
        assert canceled.wait().reason is FinishReason.CANCELED
        assert other.wait().reason is FinishReason.LENGTH
        late = submit(engine, prompt_of("late", timeout_seconds=0.05, max_new_tokens=900_000))
        assert late.wait().reason is FinishReason.TIMEOUT
        assert {"abc", "late"} <= set(engine.closed)


def test_what_one_job_raises_ends_it_alone() -> None:
    def harm(text: str) -> None:
        if text == "bad":
            raise KeyError("no such word")
        if text == "worse":
            raise InvalidInputError("not that")

    with started() as engine:
        engine.harm = harm
        sinks = [submit(engine, prompt_of(text)) for text in ("bad", "good", "worse")]
        errors = [sink.wait().error for sink in sinks]
        assert errors[1] is None
        assert isinstance(errors[0], EngineError)
        assert errors[0].message == "the engine failed on this job: KeyError: 'no such word'"
        assert isinstance(errors[2], InvalidInputError)
        assert engine.health().alive


def test_it_ends_at_stop_tokens_which_have_no_text(shared: Letters) -> None:
    end = submit(shared, prompt_of("abc", stop_token_ids=[ord("c")]))
    ended = end.wait()
    assert (ended.reason, ended.text, ended.completion_tokens) == (FinishReason.STOP, "ab", 3)
    again = submit(shared, prompt_of("abc", made=(ord("a"), ord("b"), ord("c")), stop_token_ids=[ord("c")])).wait()
    assert (again.reason, again.text, again.completion_tokens) == (FinishReason.STOP, "ab", 3)


class Odd(Letters):
    """Yields what is no token."""

    odd: Any = None

    def generate(self, prompt: Prompt) -> Iterator[Any]:
        yield from (
            super().generate(prompt) if prompt.input.prompt == "warm-up" else iter([(1, "a"), self.odd, (2, "b")])
        )


@pytest.mark.parametrize("odd", [None, 5, (1.5, "a"), (None, "a"), ("1,2", "a"), (2**63, "a"), (-1, "a"), (1, 2), (1,)])
def test_what_is_no_token_fails_its_job(odd: Any) -> None:
    engine = Odd()
    engine.odd = odd
    engine.start()
    ended = submit(engine, prompt_of("x")).wait()
    assert type(ended.error) is EngineError
    assert submit(engine, prompt_of("y")).wait().error is not None, "the loop goes on"
    engine.close()


@pytest.mark.parametrize("death", [torch.AcceleratorError("device-side assert"), KeyboardInterrupt("stop")])
def test_a_fatal_error_ends_all_jobs_and_health_says_why(death: BaseException) -> None:
    def harm(text: str) -> None:
        if text == "kill":
            raise death

    with started() as engine:
        engine.harm = harm
        engine.gate.clear()
        sinks = [submit(engine, prompt_of(text)) for text in ("abc", "kill", "xyz")]
        engine.gate.set()
        assert [sink.wait().reason for sink in sinks] == [FinishReason.ERROR] * 3
        assert not engine.health().alive
        assert str(death) in engine.health().reason
        with pytest.raises(EngineError, match="not running"):
            submit(engine, prompt_of("abc"))


def test_closing_cancels_what_runs() -> None:
    with started() as engine:
        sinks = [submit(engine, prompt_of(text, max_new_tokens=900_000)) for text in ("abc", "xyz")]
        sinks[0].wait_for_tokens(2)
        engine.close()
        assert [sink.wait().reason for sink in sinks] == [FinishReason.CANCELED] * 2


@pytest.mark.parametrize("where", ["load", "warm-up"])
@pytest.mark.parametrize("error", [EngineUnavailableError("away"), EngineError("broken"), RuntimeError("strange")])
def test_a_start_that_fails_raises_what_was_raised(where: str, error: Exception) -> None:
    def harm(text: str) -> None:
        if text == where:
            raise error

    engine = Letters()
    engine.harm = harm
    with pytest.raises(type(error), match=str(error)):
        engine.start()
    assert not engine.health().alive


def test_what_cannot_fit_is_refused() -> None:
    engine = Letters()
    engine.context_tokens, engine.bytes_per_token, engine.budget_bytes = 100, 10, 200
    with pytest.raises(TooLargeError, match="it needs 103 tokens, the context has 100"):
        engine.prepare(prompt_of("abc", max_new_tokens=100))
    with pytest.raises(TooLargeError, match="it needs 230 bytes, there are 200"):
        engine.prepare(prompt_of("abc", max_new_tokens=20))
    assert engine.cost([3, 4]) == 70
    assert engine.prepare(prompt_of("abc")).tokens == 15


def test_the_documents_example_is_the_file_that_is_tested() -> None:
    docs = Path(__file__).parents[2] / "docs"
    assert f"```python\n{(docs / 'examples/markov.py').read_text()}```\n" in (docs / "engines.md").read_text()


def test_an_idle_loop_still_turns(shared: Letters) -> None:
    before = shared.health().steps
    for _ in range(3):
        threading.Event().wait(0.6)
        if shared.health().steps > before:
            return
    raise AssertionError("the loop stands still")
