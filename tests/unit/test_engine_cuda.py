"""Batched decoding on a real card: kernel, graphs and plain steps agree, and a decode step takes no memory."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from nowserving.job import Input, Parameters
from tests.tiny import ARCHITECTURES, Collected, make_model, make_tokenizer
from workers.engines import transformers
from workers.engines.attention import Segment
from workers.engines.cache import JobCache
from workers.engines.engine import Prompt
from workers.engines.graph import make_decoder
from workers.engines.model import LoadedModel, adopt_model
from workers.engines.transformers import TransformersEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SLOTS = 6


def load(architecture: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    return adopt_model(make_model(architecture).to("cuda", dtype), make_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernel_and_graphs_pass_the_check(
    architecture: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = make_decoder(load(architecture, dtype), SLOTS)
    assert decoder is not None
    assert not caplog.records, "it went without the kernel, or without graphs"
    assert decoder.graph_bytes > 0


@contextmanager
def engine_of(architecture: str, batched: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[TransformersEngine]:
    model = make_model(architecture).to("cuda")
    with monkeypatch.context() as patch:
        if not batched:
            patch.setattr(transformers, "make_decoder", lambda loaded, slots: None)
        engine = TransformersEngine.of(model, make_tokenizer(), slots=SLOTS, budget_bytes=10**9)
        engine.start()
    yield engine
    engine.close()


def prompt_of(index: int) -> str:
    return "some text " * (1 + 8 * index)


def run(engine: TransformersEngine) -> list[tuple[int, ...]]:
    sinks = []
    for index in range(12):
        sink = Collected()
        parameters = Parameters(max_new_tokens=40 + 30 * index, temperature=float(index % 2), seed=index)
        prompt = Prompt(f"job{index}", Input(prompt=prompt_of(index)), parameters, 60)
        engine.submit(engine.prepare(prompt), sink)
        sinks.append(sink)
    for sink in sinks:
        assert sink.wait().error is None
    return [sink.ids for sink in sinks]


def parts_at_a_tie(judge: Any, prompt: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """Whether the first tokens that differ are equally likely in double precision, but for float32's rounding.

    Both ways sum in orders of their own, so that such a tie is anybody's.
    """
    place = next(place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
    ids = [*make_tokenizer()(prompt)["input_ids"], *ours[:place]]
    logits = judge(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return bool((logits[ours[place]] - logits[theirs[place]]).abs() <= 1e-5 * logits.abs().max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_are_those_of_jobs_that_attend_by_themselves(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of(architecture, False, monkeypatch) as plain, engine_of(architecture, True, monkeypatch) as batched:
        for module in ("workers.engines.cache", "workers.engines.loop"):
            monkeypatch.setattr(f"{module}.MAX_CHUNK_TOKENS", 64)  # so that rings go round
        ours, theirs = run(batched), run(plain)
    judge = make_model(architecture).double()
    for index, pair in enumerate(zip(ours, theirs, strict=True)):
        assert pair[0] == pair[1] or parts_at_a_tie(judge, prompt_of(index), *pair)


def test_a_decode_step_allocates_nothing_and_a_job_that_ends_leaves_nothing() -> None:
    loaded = load("gqa")
    decoder = make_decoder(loaded, SLOTS)
    assert decoder is not None

    gc.collect()
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        caches = [JobCache(loaded.layout, 50) for _ in range(SLOTS)]
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for start in range(50):
            decoder.forward([Segment(cache, start, [7]) for cache in caches], [True] * SLOTS)
    assert torch.cuda.max_memory_allocated() == held > before
    caches.clear()
    assert torch.cuda.memory_allocated() == before
