"""A long prompt beside chats: read in parts, between which the others make their tokens. Time is made by the steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nowserving.job import Input, Parameters
from tests.oracle import Oracle
from tests.tiny import Collected, make_model, make_tokenizer
from workers.engines import loop
from workers.engines.engine import FinishReason, Prompt
from workers.engines.forward import forward
from workers.engines.pace import FEWEST_TOKENS, FIRST_TOKENS, GATHER_SECONDS, QUIET_SECONDS, STEP_SECONDS, Pace
from workers.engines.transformers import TransformersEngine

CHATS = 7
NEVER = 9999
"""A stop token outside the vocabulary: jobs run to their length."""
LONG = "The quick brown fox. " * 90
LONGEST_STEP_SECONDS = 1.0


class Hours:
    """The loop's clock and forward pass. A step takes as long as `cost_seconds` says of its tokens' positions."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self.steps: list[tuple[float, list[tuple[int, int]]]] = []
        """Of each step its seconds, and first token and tokens of each job."""
        self.cost_seconds: Callable[[int], float] = lambda position: 0.001
        self.before: Callable[[Any], None] = lambda segments: None

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_seconds

    def forward(self, model: Any, segments: Any, wanted: Any, device: Any) -> torch.Tensor:
        self.before(segments)
        seconds = sum(self.cost_seconds(position) for part in segments for position in range(part.start, part.end))
        self.steps.append((seconds, [(part.start, len(part.ids)) for part in segments]))
        self.ahead_seconds += seconds
        return forward(model, segments, wanted, device)


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    made = Hours()
    monkeypatch.setattr(loop, "time", made)
    monkeypatch.setattr(loop, "forward", made.forward)
    return made


@pytest.fixture
def engine(hours: Hours) -> Iterator[TransformersEngine]:
    made = TransformersEngine.of(
        make_model(eos_token_id=NEVER), make_tokenizer(), slots=CHATS + 1, budget_bytes=10**9, threads=1
    )
    made.start()
    yield made
    made.close()


def submit(engine: TransformersEngine, name: str, text: str, new_tokens: int) -> tuple[Prompt, Collected]:
    prompt = Prompt(name, Input(prompt=text), Parameters(max_new_tokens=new_tokens), timeout_seconds=10**6)
    sink = Collected()
    engine.submit(engine.prepare(prompt), sink)
    return prompt, sink


def assert_set(event: threading.Event) -> None:
    assert event.wait(30)


def submit_beside_chats(
    engine: TransformersEngine, hours: Hours, before: Callable[[Any], None] = lambda segments: None
) -> list[tuple[Prompt, Collected]]:
    """A long prompt, and chats that run already and are held back until it is there. The long prompt is the last."""
    held = threading.Event()
    jobs = [submit(engine, f"chat{index}", f"about {index}", 120) for index in range(CHATS)]
    for _, sink in jobs:
        sink.wait_for_tokens(2)
    hours.before = lambda segments: assert_set(held)
    jobs.append(submit(engine, "long", LONG, 5))
    hours.before = before
    held.set()
    return jobs


def parts_of_long_prompt(hours: Hours) -> list[tuple[float, list[tuple[int, int]]]]:
    return [(seconds, of) for seconds, of in hours.steps if max(tokens for _, tokens in of) >= FEWEST_TOKENS]


def test_chats_make_a_token_between_any_two_parts_of_a_long_prompt(engine: TransformersEngine, hours: Hours) -> None:
    hours.cost_seconds = lambda position: 0.003 + position / 100_000  # attention looks back on ever more
    jobs = submit_beside_chats(engine, hours)
    for _, sink in jobs:
        sink.wait()
    parts = parts_of_long_prompt(hours)
    assert len(parts) > 20
    assert max(seconds for seconds, _ in parts) < LONGEST_STEP_SECONDS
    assert all(sum(tokens == 1 for _, tokens in of) == CHATS for _, of in parts)
    oracle = Oracle(make_model(eos_token_id=NEVER), make_tokenizer())
    for prompt, sink in jobs:
        assert sink.ids == oracle.generate(prompt, engine.prepare(prompt).prompt_ids)


def test_a_long_prompt_is_canceled_between_two_of_its_parts(engine: TransformersEngine, hours: Hours) -> None:
    hours.cost_seconds = lambda position: 0.01

    def cancel_at_third(segments: Any) -> None:
        if len(parts_of_long_prompt(hours)) == 2:
            engine.cancel("long")

    jobs = submit_beside_chats(engine, hours, cancel_at_third)
    assert jobs[-1][1].wait().reason is FinishReason.CANCELED
    assert len(parts_of_long_prompt(hours)) == 3
    assert [sink.wait().reason for _, sink in jobs[:-1]] == [FinishReason.LENGTH] * CHATS


def test_long_prompts_that_come_together_share_each_step(engine: TransformersEngine, hours: Hours) -> None:
    hours.cost_seconds = lambda position: 0.004
    held = threading.Event()
    hours.before = lambda segments: assert_set(held)
    jobs = [submit(engine, f"long{index}", LONG, 2) for index in range(CHATS)]
    held.set()
    for _, sink in jobs:
        sink.wait()
    assert max(seconds for seconds, _ in hours.steps) < 2 * STEP_SECONDS


@settings(deadline=None)
@given(st.floats(1e-5, 0.015), st.lists(st.floats(0.7, 1.4), max_size=60))
def test_no_step_takes_a_second_however_the_cost_of_a_token_wanders(cost_seconds: float, turns: list[float]) -> None:
    pace = Pace()
    for turn in [1.0, *turns]:
        cost_seconds = min(0.015, cost_seconds * turn)
        tokens = pace.prompt_tokens
        assert tokens * cost_seconds < LONGEST_STEP_SECONDS
        pace.note(tokens, tokens * cost_seconds)


def test_the_pace_reads_as_much_as_the_time_allows() -> None:
    pace = Pace()
    for _ in range(20):
        pace.note(pace.prompt_tokens, pace.prompt_tokens * 0.001)
    assert pace.prompt_tokens == pytest.approx(STEP_SECONDS / 0.001, rel=0.01)


def test_what_a_step_costs_for_itself_does_not_let_it_read_ever_less() -> None:
    """As where prompts are launched piece by piece: a short one takes almost as long as many together."""
    pace = Pace()
    for _ in range(20):
        pace.note(20, 0.1 + 20 * 0.0001)
    assert pace.prompt_tokens >= FIRST_TOKENS
    for _ in range(40):
        pace.note(pace.prompt_tokens, 0.1 + pace.prompt_tokens * 0.0001)
    assert pace.prompt_tokens == pytest.approx((STEP_SECONDS - 0.1) / 0.0001, rel=0.01)


def test_prompts_wait_for_more_as_long_as_the_last_ones_took_and_never_longer() -> None:
    pace = Pace()
    assert not pace.gathers(1, newest=10.0, now=10.0)
    pace.rest(0.03, now=10.0)
    assert pace.gathers(1, newest=10.02, now=10.02)
    assert not pace.gathers(1, newest=10.04, now=10.04)
    pace.rest(0.9, now=20.0)
    almost, over = 20.0 + 0.9 * GATHER_SECONDS, 20.0 + 1.1 * GATHER_SECONDS
    assert pace.gathers(1, newest=almost, now=almost)
    assert not pace.gathers(1, newest=over, now=over)


def test_no_more_are_waited_for_once_none_have_come_for_a_while() -> None:
    pace = Pace()
    pace.rest(0.9, now=10.0)
    assert pace.gathers(1, newest=10.01, now=10.01 + 0.9 * QUIET_SECONDS)
    assert not pace.gathers(1, newest=10.01, now=10.01 + 1.1 * QUIET_SECONDS)


def test_a_steps_worth_of_prompts_never_waits() -> None:
    pace = Pace()
    pace.rest(0.05, now=10.0)
    assert pace.gathers(pace.prompt_tokens - 1, newest=10.0, now=10.0)
    assert not pace.gathers(pace.prompt_tokens, newest=10.0, now=10.0)
