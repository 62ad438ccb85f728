"""Short prompts as on a card: attended to as one batch, with the same numbers, and gathered if they come one by one."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from nowserving.job import Input, Parameters
from tests.decode_reference import ReferenceKernel, Rerun
from tests.tiny import ARCHITECTURES, Collected, make_model, make_tokenizer
from workers.engines import attention, transformers
from workers.engines.attention import Segment
from workers.engines.cache import JobCache
from workers.engines.decode import Decoder
from workers.engines.engine import Prompt
from workers.engines.forward import forward
from workers.engines.graph import assemble
from workers.engines.model import LoadedModel, adopt_model
from workers.engines.pace import Pace
from workers.engines.transformers import TransformersEngine

LENGTHS = [1, 5, 200, 9, 128, 2, 30]
"""Among the short ones a row that decodes, and a prompt too long to be one of them."""


def run(loaded: LoadedModel) -> list[torch.Tensor]:
    """The logits of a step, and the caches after it."""
    caches = [JobCache(loaded.layout, length + 10) for length in LENGTHS]
    for cache in caches:
        cache.memory.zero_()
    segments = [
        Segment(cache, 7 if length == 1 else 0, [(31 * place + length) % 250 for place in range(length)])
        for cache, length in zip(caches, LENGTHS, strict=True)
    ]
    logits = forward(loaded.model, segments, [True] * len(segments), loaded.device)
    return [logits, *(cache.memory for cache in caches)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_of_prompts_is_as_each_by_itself(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = adopt_model(make_model(architecture), make_tokenizer())
    batches = []
    real = attention.Prompts.attend

    def counted(self: attention.Prompts, *given: Any) -> torch.Tensor:
        batches.append(self)
        return real(self, *given)

    with torch.inference_mode():
        own = run(loaded)
        monkeypatch.setattr(attention, "_launches_cost", lambda device: True)
        monkeypatch.setattr(attention.Prompts, "attend", counted)
        ours = run(loaded)
    assert bool(batches) == (architecture not in {"window", "softcap", "sinks"})
    for one, other in zip(own, ours, strict=True):
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()


def test_a_window_as_long_as_the_prompts_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = adopt_model(make_model("window", sliding_window=128), make_tokenizer())
    with torch.inference_mode():
        own = run(loaded)
        monkeypatch.setattr(attention, "_launches_cost", lambda device: True)
        ours = run(loaded)
    for one, other in zip(own, ours, strict=True):
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()


def test_prompts_that_come_one_by_one_share_a_step_where_decoding_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        transformers, "make_decoder", lambda loaded, slots: assemble(loaded, slots, ReferenceKernel, Rerun())
    )
    steps: list[list[int]] = []
    real_forward = Decoder.forward

    def recorded(decoder: Decoder, segments: Sequence[Segment], wanted: Sequence[bool]) -> torch.Tensor:
        if prompts := [len(segment.ids) for segment in segments if len(segment.ids) > 1]:
            steps.append(prompts)
        return real_forward(decoder, segments, wanted)

    monkeypatch.setattr(Decoder, "forward", recorded)
    resting = True
    monkeypatch.setattr(Pace, "gathers", lambda pace, tokens, newest, now: resting)
    model = make_model(eos_token_id=9999)
    engine = TransformersEngine.of(model, make_tokenizer(), slots=4, budget_bytes=10**9, threads=1)
    engine.start()
    sinks = [Collected() for _ in range(4)]
    try:
        steps.clear()
        for index, sink in enumerate(sinks):
            prompt = Prompt(f"job{index}", Input(prompt="text" * (1 + index)), Parameters(max_new_tokens=900), 60)
            engine.submit(engine.prepare(prompt), sink)
            sinks[0].wait_for_tokens(1 + 5 * index)
        resting = False
        for sink in sinks:
            assert sink.wait().error is None
    finally:
        engine.close()
    assert steps == [[4], [8, 12, 16]]
