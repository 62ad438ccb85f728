"""What goes wrong in one job, in one step, or in the loop. `Turnstile` stands at every step, so that nothing sleeps."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from nowserving.errors import EngineError, OutOfMemoryError
from nowserving.job import Input, Parameters
from tests.tiny import Collected, make_model, make_tokenizer
from workers.engines import loop
from workers.engines.cache import JobCache
from workers.engines.engine import FinishReason, Prompt
from workers.engines.forward import forward
from workers.engines.text import TextStream
from workers.engines.transformers import TransformersEngine

NEVER = 9999
"""A stop token outside the vocabulary: jobs run to their length."""


class Turnstile:
    """Stands in for the forward pass: counts steps, may hold them back, may raise, may spoil the logits."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self.gate = threading.Event()
        self.gate.set()
        self.rows: list[int] = []
        self.raises: dict[int, BaseException] = {}
        self.most_rows = 1000
        self.spoiled: int | None = None
        self.curse: int | None = None
        self.cursed: Any = None
        self.crowd: int | None = None

    def __call__(self, model: Any, segments: Any, wanted: Any, device: Any) -> torch.Tensor:
        assert self.gate.wait(30)
        self.rows.append(len(segments))
        if error := self.raises.pop(len(self.rows) - 1, None):
            raise error
        if self.curse is not None and len(segments) == 4 and min(segment.start for segment in segments) > 10:
            self.cursed, self.curse = segments[self.curse].cache, None
        if self.cursed in [segment.cache for segment in segments]:
            raise RuntimeError("shapes do not match")
        if self.cursed and len(segments) == self.crowd:
            self.crowd = None
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        if len(segments) > self.most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        logits: torch.Tensor = self._forward(model, segments, wanted, device)
        if self.spoiled is not None and len(logits) > self.spoiled:
            logits[self.spoiled] = float("nan")
            self.spoiled = None
        return logits


@pytest.fixture
def turnstile(monkeypatch: pytest.MonkeyPatch) -> Turnstile:
    made = Turnstile(forward)
    monkeypatch.setattr(loop, "forward", made)
    return made


@pytest.fixture
def engine(turnstile: Turnstile) -> Iterator[TransformersEngine]:
    endless = make_model(eos_token_id=NEVER)
    made = TransformersEngine.of(endless, make_tokenizer(), slots=4, budget_bytes=10**9, threads=1)
    made.start()
    yield made
    turnstile.gate.set()
    made.close()


def submit(engine: TransformersEngine, name: str, new: int = 20, timeout_seconds: float = 60) -> Collected:
    sink = Collected()
    parameters = Parameters(max_new_tokens=new, temperature=1.0, seed=3)
    engine.submit(engine.prepare(Prompt(name, Input(prompt=f"about {name}"), parameters, timeout_seconds)), sink)
    return sink


def alone(engine: TransformersEngine, name: str, new: int = 20) -> tuple[int, ...]:
    sink = submit(engine, name, new)
    sink.wait()
    return sink.ids


def together(engine: TransformersEngine, turnstile: Turnstile, names: str) -> list[Collected]:
    """Submit one job a letter, so that all are in the same steps."""
    turnstile.gate.clear()
    first = submit(engine, "warm", 1)
    sinks = [submit(engine, name) for name in names]
    turnstile.gate.set()
    first.wait()
    return sinks


def test_a_running_job_is_canceled_before_its_next_step(engine: TransformersEngine, turnstile: Turnstile) -> None:
    sinks = together(engine, turnstile, "ab")
    sinks[0].wait_for_tokens(3)
    engine.cancel("a")
    engine.cancel("a")
    engine.cancel("unknown")
    end = sinks[0].wait()
    assert (end.reason, end.text) == (FinishReason.CANCELED, sinks[0].text)
    assert sinks[1].wait().reason is FinishReason.LENGTH
    assert sinks[1].ids == alone(engine, "b")


def test_jobs_that_wait_are_canceled_and_time_out_too(engine: TransformersEngine, turnstile: Turnstile) -> None:
    turnstile.gate.clear()
    running = [submit(engine, name) for name in "abcd"]
    canceled, late = submit(engine, "e"), submit(engine, "f", timeout_seconds=0)
    engine.cancel("e")
    again = submit(engine, "e")  # another attempt's: the cancel before it does not count
    turnstile.gate.set()
    assert canceled.wait().reason is FinishReason.CANCELED
    assert late.wait().reason is FinishReason.TIMEOUT
    assert canceled.prompts == late.prompts == []
    assert again.wait().reason is FinishReason.LENGTH
    assert all(sink.wait().reason is FinishReason.LENGTH for sink in running)


def test_a_running_job_times_out(engine: TransformersEngine, turnstile: Turnstile) -> None:
    sink = submit(engine, "a", new=2000, timeout_seconds=0.2)
    end = sink.wait()
    assert end.reason is FinishReason.TIMEOUT
    assert 0 < end.completion_tokens == len(sink.ids) < 2000


def test_out_of_memory_sends_the_newest_back_and_changes_no_text(
    engine: TransformersEngine, turnstile: Turnstile
) -> None:
    expected = [alone(engine, name) for name in "abcd"]
    turnstile.most_rows = 2
    sinks = together(engine, turnstile, "abcd")
    ends = [sink.wait() for sink in sinks]
    assert [end.error for end in ends] == [None] * 4
    assert [sink.ids for sink in sinks] == expected
    assert [len(sink.prompts) for sink in sinks] == [1] * 4


def test_out_of_memory_in_mid_text_keeps_what_was_made(engine: TransformersEngine, turnstile: Turnstile) -> None:
    expected = [alone(engine, name) for name in "abc"]
    sinks = together(engine, turnstile, "abc")
    sinks[2].wait_for_tokens(5)
    turnstile.most_rows = 1
    for sink in sinks:
        sink.wait()
    assert [sink.ids for sink in sinks] == expected
    assert [index for index, _, _ in sinks[2].batches] == list(range(20))


def test_out_of_memory_alone_ends_the_job_and_not_the_loop(engine: TransformersEngine, turnstile: Turnstile) -> None:
    turnstile.most_rows = 0
    assert isinstance(submit(engine, "a").wait().error, OutOfMemoryError)
    turnstile.most_rows = 1000
    assert submit(engine, "a").wait().error is None


def test_no_room_for_a_cache_lets_the_newest_wait(
    engine: TransformersEngine, turnstile: Turnstile, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(engine, name) for name in "ab"]
    real, failures = JobCache, [None, torch.OutOfMemoryError("simulated")]

    def allocate(*arguments: Any) -> Any:
        if failures and (failure := failures.pop(0)):
            raise failure
        return real(*arguments)

    turnstile.gate.clear()
    warm = submit(engine, "warm", 1)
    with warm.moved:
        assert warm.moved.wait_for(lambda: warm.prompts, 30)
    monkeypatch.setattr(loop, "JobCache", allocate)
    sinks = [submit(engine, name) for name in "ab"]
    turnstile.gate.set()
    for sink in (warm, *sinks):
        assert sink.wait().error is None
    assert [sink.ids for sink in sinks] == expected


@pytest.mark.parametrize("index", range(4))
def test_a_job_that_breaks_its_steps_ends_alone(engine: TransformersEngine, turnstile: Turnstile, index: int) -> None:
    expected = [alone(engine, name) for name in "abcd"]
    turnstile.curse = index
    sinks = together(engine, turnstile, "abcd")
    ends = [sink.wait() for sink in sinks]
    assert [bool(end.error) for end in ends] == [place == index for place in range(4)]
    assert str(ends[index].error).endswith("shapes do not match")
    for place, sink in enumerate(sinks):
        assert sink.ids == (expected[place][: len(sink.ids)] if place == index else expected[place])


def test_out_of_memory_while_a_broken_step_is_run_in_halves(engine: TransformersEngine, turnstile: Turnstile) -> None:
    expected = [alone(engine, name) for name in "abcd"]
    turnstile.curse, turnstile.crowd = 3, 2
    sinks = together(engine, turnstile, "abcd")
    # The first half sends the newest back, which is the culprit: it begins anew, and its curse was on its cache.
    assert [sink.wait().error for sink in sinks] == [None] * 4
    assert [sink.ids for sink in sinks] == expected
    assert turnstile.crowd is None


def test_a_step_that_fails_once_is_run_again(engine: TransformersEngine, turnstile: Turnstile) -> None:
    expected = [alone(engine, name) for name in "abc"]
    turnstile.raises[len(turnstile.rows) + 5] = RuntimeError("it passes")
    sinks = together(engine, turnstile, "abc")
    assert [sink.wait().error for sink in sinks] == [None] * 3
    assert [sink.ids for sink in sinks] == expected


def test_logits_that_are_no_numbers_end_their_job_alone(engine: TransformersEngine, turnstile: Turnstile) -> None:
    expected = alone(engine, "b")
    sinks = together(engine, turnstile, "ab")
    sinks[1].wait_for_tokens(2)
    turnstile.spoiled = 0
    end = sinks[0].wait()
    assert isinstance(end.error, EngineError)
    assert "finite" in end.error.message
    assert sinks[1].wait().error is None
    assert sinks[1].ids == expected


def test_a_failing_detokenizer_or_sink_ends_its_job_alone(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(engine, "b")

    class Broken(Collected):
        def tokens(self, index: int, ids: Any, text: str) -> None:
            raise RuntimeError("a sink may not raise")

    broken = Broken()
    prompt = Prompt("a", Input(prompt="x"), Parameters(max_new_tokens=3, seed=1), 60)
    engine.submit(engine.prepare(prompt), broken)
    other = submit(engine, "b")
    assert broken.wait().completion_tokens == 3
    assert other.wait().error is None
    assert other.ids == expected

    monkeypatch.setattr(TextStream, "feed", lambda self, token: 1 / 0)
    assert "ZeroDivisionError" in str(submit(engine, "c").wait().error)
    monkeypatch.undo()


@pytest.mark.parametrize("death", [KeyboardInterrupt("stop"), torch.AcceleratorError("device-side assert")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_loop_dies_every_job_ends_and_health_says_why(
    engine: TransformersEngine, turnstile: Turnstile, death: BaseException
) -> None:
    turnstile.gate.clear()
    sinks = [submit(engine, name) for name in "abcdef"]
    turnstile.raises[len(turnstile.rows)] = death
    turnstile.gate.set()
    for sink in sinks:
        end = sink.wait()
        assert end.reason is FinishReason.ERROR
        assert type(death).__name__ in str(end.error)
    health = engine.health()
    assert not health.alive
    assert str(death) in health.reason
    with pytest.raises(EngineError, match="not running"):
        submit(engine, "late")


def test_closing_cancels_what_runs_and_waits(engine: TransformersEngine, turnstile: Turnstile) -> None:
    turnstile.gate.clear()
    sinks = [submit(engine, name, 1000) for name in "abcdef"]
    closing = threading.Thread(target=engine.close)
    closing.start()
    turnstile.gate.set()
    closing.join(30)
    assert [sink.wait().reason for sink in sinks] == [FinishReason.CANCELED] * 6
    assert not engine.health().alive


def test_an_idle_loop_still_turns(engine: TransformersEngine) -> None:
    before = engine.health().steps
    for _ in range(3):
        threading.Event().wait(0.6)
        if engine.health().steps > before:
            return
    raise AssertionError("the loop stands still")
