"""Batched decoding on the CPU: all of it but the kernel and the graphs, for which plain torch stands in."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from nowserving.job import Input, Parameters
from tests.decode_reference import ReferenceKernel, Rerun, memory_at
from tests.tiny import ARCHITECTURES, Collected, make_model, make_tokenizer
from workers.engines import graph, transformers
from workers.engines.attention import Segment
from workers.engines.cache import CacheLayout, JobCache, LayerShape
from workers.engines.decode import Decoder, DecodeTable, Replay, bucket
from workers.engines.engine import Prompt
from workers.engines.graph import assemble, make_decoder
from workers.engines.model import adopt_model
from workers.engines.transformers import TransformersEngine

SLOTS = 5
LAYOUT = CacheLayout((LayerShape(2, 4, 3, None), LayerShape(1, 4, 4, 8)), torch.float32, torch.device("cpu"))


class Assembly:
    """Stands in for make_decoder; counts what the engine then does with the decoder."""

    def __init__(self) -> None:
        self.kernel, self.capture = ReferenceKernel(), Rerun()
        self.decoder: Decoder | None = None

    def __call__(self, loaded: Any, slots: int) -> Decoder | None:
        self.decoder = assemble(loaded, slots, lambda: self.kernel, self.capture)
        self.kernel.rows.clear()
        self.capture.replayed = 0
        return self.decoder


@contextmanager
def engine_of(architecture: str, decoder: Assembly | None = None, **changes: Any) -> Iterator[TransformersEngine]:
    with pytest.MonkeyPatch.context() as patch:
        if decoder:
            patch.setattr(transformers, "make_decoder", decoder)
        model = make_model(architecture, **changes)
        engine = TransformersEngine.of(model, make_tokenizer(), slots=SLOTS, budget_bytes=10**9, threads=1)
        engine.start()
        yield engine
        engine.close()


def run(engine: TransformersEngine, count: int = 7) -> list[tuple[int, ...]]:
    """Texts of jobs of many lengths, the last of which join while the first decode."""
    sinks = []
    for index in range(count):
        sink = Collected()
        parameters = Parameters(max_new_tokens=8 + 7 * index, temperature=1.0 if index % 3 == 2 else 0.0, seed=index)
        prompt = Prompt(f"job{index}", Input(prompt="some text " * (1 + index)), parameters, 60)
        engine.submit(engine.prepare(prompt), sink)
        sinks.append(sink)
        if index >= 3:
            sinks[index - 2].wait_for_tokens(3)
    for sink in sinks:
        assert sink.wait().error is None
    return [sink.ids for sink in sinks]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_are_those_of_jobs_that_attend_by_themselves(architecture: str) -> None:
    with engine_of(architecture) as engine:
        expected = run(engine)
    decoder = Assembly()
    with engine_of(architecture, decoder) as engine:
        assert run(engine) == expected
    assert decoder.capture.replayed > 10


@pytest.mark.parametrize("architecture", ["window", "softcap", "sinks"])
def test_texts_longer_than_the_ring_are_too(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Assembly()
    with engine_of(architecture) as plain, engine_of(architecture, decoder) as engine:
        for module in ("workers.engines.cache", "workers.engines.loop"):
            monkeypatch.setattr(f"{module}.MAX_CHUNK_TOKENS", 8)
        assert run(engine) == run(plain)
    assert decoder.capture.replayed > 10


def run_beside_a_long_prompt(engine: TransformersEngine) -> list[tuple[int, ...]]:
    sinks = [Collected(), Collected()]
    for sink, text in zip(sinks, ("long " * 200, "short"), strict=True):
        engine.submit(engine.prepare(Prompt(text, Input(prompt=text), Parameters(max_new_tokens=20), 60)), sink)
    for sink in sinks:
        assert sink.wait().error is None
    return [sink.ids for sink in sinks]


def test_rows_that_decode_are_batched_also_beside_an_older_jobs_long_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("workers.engines.cache", "workers.engines.loop"):
        monkeypatch.setattr(f"{module}.MAX_CHUNK_TOKENS", 24)
    decoder = Assembly()
    with engine_of("gqa", decoder, eos_token_id=9999) as engine:
        assert decoder.decoder
        real, steps = decoder.decoder.forward, []

        def forward(segments: Any, wanted: Any) -> torch.Tensor:
            steps.append([len(segment.ids) for segment in segments])
            return real(segments, wanted)

        decoder.decoder.forward = forward  # type: ignore[method-assign]
        texts = run_beside_a_long_prompt(engine)
    with engine_of("gqa", eos_token_id=9999) as plain:
        assert run_beside_a_long_prompt(plain) == texts
    assert [1, 24] in steps
    assert [24, 1] not in steps


def test_out_of_memory_in_a_decoders_step_changes_no_text() -> None:
    decoder = Assembly()
    with engine_of("gqa", decoder) as engine:
        expected = run(engine)
        assert decoder.decoder
        real, failures = decoder.decoder.forward, [False] * 6 + [True, False, True]

        def forward(segments: Any, wanted: Any) -> torch.Tensor:
            logits = real(segments, wanted)
            if len(segments) > 1 and failures and failures.pop(0):
                raise torch.OutOfMemoryError("simulated, after the step has kept its keys and values")
            return logits

        decoder.decoder.forward = forward  # type: ignore[method-assign]
        assert run(engine) == expected
        assert not failures


def test_a_step_is_replayed_with_the_next_power_of_two_or_all_rows() -> None:
    assert [bucket(rows, 6) for rows in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    assert {bucket(rows, 64) for rows in range(1, 65)} == {1, 2, 4, 8, 16, 32, 64}
    assert bucket(1, 1) == 1


def segment(cache: JobCache, start: int = 0) -> Segment:
    return Segment(cache, start, [7])


def test_the_table_says_where_each_rows_cache_is_whoever_comes_and_goes() -> None:
    table = DecodeTable(LAYOUT, 3)
    caches = [JobCache(LAYOUT, tokens) for tokens in (5, 1200, 9)]

    def check(*rows: int) -> None:
        table.set([segment(caches[row], 3 + row) for row in rows])
        for place, row in enumerate(rows):
            for layer, shape in enumerate(LAYOUT.layers):
                slots = int(table.places[layer, place])
                for views, addresses, dim in (
                    (caches[row].keys, table.keys, shape.key_dim),
                    (caches[row].values, table.values, shape.value_dim),
                ):
                    found = memory_at(int(addresses[layer, place]), (shape.heads, slots, dim), LAYOUT.dtype)
                    assert found.shape == views[layer].shape
                    assert found.data_ptr() == views[layer].data_ptr()
        assert table.ids.tolist()[: len(rows)] == [7] * len(rows)
        assert table.positions.tolist()[: len(rows)] == [3 + row for row in rows]
        assert table.ends.tolist() == [4 + row for row in rows] + [0] * (16 - len(rows))
        assert not table.keys[:, len(rows) :].any()

    for rows in ((0, 1, 2), (1, 2), (2, 1), (), (0,), (0, 1, 2)):
        check(*rows)
    before = caches[0]
    for tokens in (before.tokens, 7):
        caches[0] = JobCache(LAYOUT, tokens)
        check(0, 1)
        assert before.memory.data_ptr() not in table.keys


def test_the_table_copies_addresses_only_when_rows_change(monkeypatch: pytest.MonkeyPatch) -> None:
    table = DecodeTable(LAYOUT, 2)
    first, second = JobCache(LAYOUT, 5), JobCache(LAYOUT, 5)
    copies = []
    monkeypatch.setattr(table, "_copy", lambda target, source: copies.append(tuple(target.shape)))
    step, caches = (3, 16), (3, 2, 16)
    table.set([segment(first), segment(second)])
    table.set([segment(first, 1), segment(second, 1)])
    table.set([segment(second, 2)])
    assert copies == [caches, step, step, caches, step]


def test_a_table_keeps_no_cache_alive() -> None:
    table = DecodeTable(LAYOUT, 2)
    cache = JobCache(LAYOUT, 5)
    memory = weakref.ref(cache.memory)
    table.set([segment(cache)])
    del cache
    gc.collect()
    assert memory() is None


def test_rows_of_which_some_want_no_logits_are_replayed_too() -> None:
    loaded = adopt_model(make_model(), make_tokenizer())
    decoder = assemble(loaded, 3, ReferenceKernel, Rerun())
    assert decoder
    with torch.inference_mode():
        caches = [JobCache(loaded.layout, 4) for _ in range(3)]
        segments = [Segment(cache, 0, [5 + row]) for row, cache in enumerate(caches)]
        every = decoder.forward(segments, [True] * 3).clone()
        assert torch.equal(decoder.forward(segments, [True, False, True]), every[[0, 2]])


def test_off_cuda_there_is_none() -> None:
    assert make_decoder(adopt_model(make_model(), make_tokenizer()), 2) is None


class Forgetful(ReferenceKernel):
    """Attends well, but the last of the check's calls, which no later one could show, keeps another key."""

    calls = 2 * (graph.PROBE_STEPS - 1)

    def __call__(self, table: DecodeTable, layer: int, *arguments: Any) -> torch.Tensor:
        attended = super().__call__(table, layer, *arguments)
        self.calls -= 1
        if self.calls == 0:
            slots = int(table.places[layer, 0])
            memory_at(int(table.keys[layer, 0]), (2, slots, 16), torch.float32)[1, int(table.ends[0]) - 1, 3] += 1
        return attended


def missing() -> ReferenceKernel:
    raise ImportError("No module named 'triton'")


@pytest.mark.parametrize(
    ("make_kernel", "reason"),
    [
        (missing, "triton"),
        (lambda: ReferenceKernel(lambda attended: attended * 1.01), "differs by 1.0%"),
        (lambda: ReferenceKernel(lambda attended: attended * float("nan")), "differs by nan%"),
        (Forgetful, "does not keep"),
    ],
    ids=["missing", "wrong", "nan", "forgetful"],
)
def test_a_kernel_that_is_not_right_is_not_used(
    make_kernel: Callable[[], ReferenceKernel], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = adopt_model(make_model(), make_tokenizer())
    assert assemble(loaded, 3, make_kernel, Rerun()) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert reason in caplog.text


class Broken(Rerun):
    def __call__(self, work: Callable[[], None]) -> Replay:
        raise RuntimeError("called a synchronizing CUDA operation\nand more")


class Stale(Rerun):
    """Replays what the table held at the capture."""

    def __call__(self, work: Callable[[], None]) -> Replay:
        work()
        return lambda: None


@pytest.mark.parametrize(("capture", "reason"), [(Broken(), "synchronizing"), (Stale(), "logits of 1 rows differ")])
def test_without_right_graphs_steps_still_share_one_kernel(
    capture: Rerun, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_of("gqa") as engine:
        expected = run(engine)
    decoder = Assembly()
    decoder.capture = capture
    with engine_of("gqa", decoder) as engine:
        assert run(engine) == expected
    assert decoder.decoder
    assert decoder.capture.replayed == 0
    assert SLOTS in decoder.kernel.rows
    assert [record.levelno for record in caplog.records if record.name == graph.__name__] == [logging.WARNING]
    assert reason in caplog.text
