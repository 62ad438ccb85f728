"""How much of a prompt is read is told after each of its prefill's steps but the last."""

from __future__ import annotations

import pytest

from nowserving.job import Input, Parameters
from tests.tiny import Collected, make_model, make_tokenizer
from workers.engines import pace
from workers.engines.engine import Prompt
from workers.engines.transformers import TransformersEngine

CHUNK = 40


@pytest.mark.parametrize(("prompt_tokens", "made"), [(30, 0), (CHUNK, 0), (CHUNK + 1, 0), (150, 0), (110, 25)])
def test_each_step_of_a_prefill_but_the_last_is_told(
    prompt_tokens: int, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace.Pace, "prompt_tokens", CHUNK)
    engine = TransformersEngine.of(make_model(), make_tokenizer(), slots=2, budget_bytes=10**9, threads=1)
    engine.start()
    sink = Collected()
    prompt = Prompt("job", Input(prompt="a" * prompt_tokens), Parameters(max_new_tokens=made + 3), 60, (5,) * made)
    engine.submit(engine.prepare(prompt), sink)
    sink.wait()
    engine.close()
    total = prompt_tokens + made
    assert sink.steps == [(done, total) for done in range(CHUNK, total, CHUNK)]
