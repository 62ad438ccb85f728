"""Random jobs under random circumstances make what plain `generate` makes of each alone.

All that happens to them (who joins, is canceled, runs out of memory) happens between or inside the loop's own steps,
decided by a seed: a failure comes again.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import pytest
import torch

from nowserving.job import Input, Message, Parameters
from tests.oracle import Oracle, Truth
from tests.tiny import Collected, make_model, make_tokenizer
from workers.engines import loop, pace
from workers.engines.cache import JobCache
from workers.engines.engine import Ended, FinishReason, Prompt
from workers.engines.forward import forward
from workers.engines.text import BROKEN
from workers.engines.transformers import TransformersEngine

SLOTS = 4
JOBS = 40
"""Of each architecture: 200 in all."""
WORDS = ["the ", "wörld ", "日本", "x = [1, 2]\n", "🙂", "fox ", "\t", "<eos>", "aaaa"]


def make_parameters(chance: random.Random, index: int) -> dict[str, Any]:
    made: dict[str, Any] = {"max_new_tokens": chance.choice([1, 4, 12, 20, 34])}
    if chance.random() < 0.5:
        made |= {"temperature": chance.choice([0.3, 1.0, 1.7]), "seed": index}
        made |= {"top_p": chance.choice([1.0, 0.7]), "top_k": chance.choice([0, 5, 60])}
        made["min_p"] = chance.choice([0.0, 0.0, 0.02])
    if chance.random() < 0.3:
        made["repetition_penalty"] = chance.choice([0.9, 1.3])
    if chance.random() < 0.3:
        made["stop_token_ids"] = chance.sample(range(2, 258), 20)
    made["ignore_eos"] = chance.random() < 0.2
    return made


def make_input(chance: random.Random) -> Input:
    text = "".join(chance.choices(WORDS, k=chance.choice([1, 3, 9, 30])))
    if chance.random() < 0.2:
        return Input(messages=[Message(role="system", content="brief"), Message(role="user", content=text)])
    return Input(prompt=text)


def cut(chance: random.Random, text: str) -> list[str]:
    """Stop strings, mostly of the text itself; none of bytes that are no character, which may come late."""
    stops = ["never met", "\n\n"]
    text = text.replace(BROKEN, "")
    for size in (1, 2, 5):
        start = chance.randrange(max(1, len(text) - size))
        stops.append(text[start : start + size] or "?")
    return chance.sample(stops, chance.randint(1, 4))


@dataclass(frozen=True)
class Case:
    prompt: Prompt
    truth: Truth
    sink: Collected


class KnownCache(JobCache):
    """One that can be told to be gone."""


class Fate:
    """Stands where the loop runs a step and makes a cache, and lets things happen there."""

    def __init__(self, engine: TransformersEngine, seed: int) -> None:
        self.engine, self.chance = engine, random.Random(seed)
        self.to_come: list[Case] = []
        self.live: dict[str, Case] = {}
        self.happened: Counter[str] = Counter()
        self.caches: WeakSet[JobCache] = WeakSet()

    def arrive(self, most: int) -> None:
        while self.to_come and len(self.live) < most:
            case = self.to_come.pop()
            self.live[case.prompt.job_id] = case
            self.engine.submit(self.engine.prepare(case.prompt), _Telling(self, case))

    def end(self, case: Case) -> None:
        del self.live[case.prompt.job_id]
        if not self.live:
            self.arrive(self.chance.randint(1, 2 * SLOTS))

    def forward(self, model: Any, segments: Any, wanted: Any, device: Any) -> torch.Tensor:
        assert len(self.caches) == self.running, "a job that does not run holds memory"
        self.arrive(self.chance.randint(0, 2 * SLOTS))
        self.happened[f"steps of {min(len(segments), SLOTS)}"] += 1
        self.happened["parts of prompts"] += sum(segment.start > 0 and len(segment.ids) > 1 for segment in segments)
        if self.chance.random() < 0.03:
            self.happened["cancels"] += 1
            self.engine.cancel(self.chance.choice(sorted(self.live)))
        # Out of memory before, in, or after all that the step does to the caches.
        moment = self.chance.random()
        self.out_of_memory(moment < 0.03 and len(segments) > 1)
        logits = forward(model, segments, wanted, device)
        self.out_of_memory(moment > 0.94 and len(segments) > 1)
        return logits

    def allocate(self, *arguments: Any) -> JobCache:
        self.out_of_memory(self.running > 0 and self.chance.random() < 0.1)
        cache = KnownCache(*arguments)
        self.caches.add(cache)
        return cache

    @property
    def running(self) -> int:
        assert self.engine._loop is not None
        return len(self.engine._loop._running)

    def out_of_memory(self, now: bool) -> None:
        if now:
            self.happened["out of memory"] += 1
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")


class _Telling:
    def __init__(self, fate: Fate, case: Case) -> None:
        self._fate, self._case = fate, case
        self.begun, self.progress, self.tokens = case.sink.begun, case.sink.progress, case.sink.tokens

    def ended(self, end: Ended) -> None:
        self._fate.end(self._case)
        self._case.sink.ended(end)


def make_cases(engine: TransformersEngine, oracle: Oracle, chance: random.Random) -> list[Case]:
    cases = []
    for index in range(JOBS):
        parameters = make_parameters(chance, index)
        prompt = Prompt(f"job{index}", make_input(chance), Parameters(**parameters), 600)
        ids = oracle.generate(prompt, engine.prepare(prompt).prompt_ids)
        stops = cut(chance, oracle.decode(ids)) if chance.random() < 0.4 else []
        truth = oracle.tell(ids, prompt.parameters, stops)
        made = truth.ids[: chance.randint(0, len(truth.ids))] if chance.random() < 0.2 else ()
        prompt = replace(prompt, parameters=Parameters(**parameters, stop=stops), made=made)
        cases.append(Case(prompt, truth, Collected()))
    return cases


def check(case: Case, sink: Collected, end: Ended) -> None:
    truth, made = case.truth, len(case.prompt.made)
    assert len(sink.ends) == 1
    assert end.error is None
    assert [index for index, _, _ in sink.batches] == list(range(made, made + len(sink.ids)))
    assert len(sink.prompts) <= 1
    if end.reason is FinishReason.CANCELED:
        assert truth.ids[made : made + len(sink.ids)] == sink.ids
        assert truth.text.startswith(end.text.rstrip(BROKEN))
    else:
        assert (end.reason, case.prompt.made + sink.ids) == (truth.reason, truth.ids)
        assert end.text.rstrip(BROKEN) == truth.text.rstrip(BROKEN)
        assert end.completion_tokens == len(truth.ids)
    assert end.text.endswith(sink.text)
    assert made or end.text == sink.text


@pytest.fixture(autouse=True)
def few_objects() -> Iterator[None]:
    """After each out of memory the loop collects garbage: in a process full of other tests that takes long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("architecture", ["gqa", "mqa", "window", "softcap", "qwen"])
def test_random_jobs_are_what_plain_generate_makes_of_each(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine.of(
        make_model(architecture), make_tokenizer(), slots=SLOTS, budget_bytes=10**9, threads=1
    )
    engine.start()
    fate = Fate(engine, seed=1)
    cases = make_cases(engine, Oracle(make_model(architecture), make_tokenizer()), random.Random(architecture))
    monkeypatch.setattr(loop, "forward", fate.forward)
    monkeypatch.setattr(loop, "JobCache", fate.allocate)
    monkeypatch.setattr(pace.Pace, "prompt_tokens", property(lambda self: fate.chance.choice([1, 5, 16, 60])))
    for module in ("workers.engines.cache", "workers.engines.loop"):
        monkeypatch.setattr(f"{module}.MAX_CHUNK_TOKENS", 8)  # rings wrap early
    fate.to_come = cases[::-1]
    fate.arrive(2 * SLOTS)
    for case in cases:
        case.sink.wait()
    engine.close()
    for case in cases:
        check(case, case.sink, case.sink.ends[0])
    canceled = sum(case.sink.ends[0].reason is FinishReason.CANCELED for case in cases)
    rare = ("out of memory", "cancels", "parts of prompts", f"steps of {SLOTS}")
    assert min(fate.happened[what] for what in rare) > 3, fate.happened
    assert 2 < canceled < JOBS // 2
