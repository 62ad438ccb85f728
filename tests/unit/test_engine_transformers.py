import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nowserving.errors import EngineError, InvalidInputError, TooLargeError
from nowserving.job import Input, Message, Parameters
from tests.tiny import ARCHITECTURES, EOS, Collected, make_model, make_tokenizer
from workers.engines import loop, pace
from workers.engines.cache import JobCache
from workers.engines.engine import FinishReason, Prepared, Prompt
from workers.engines.pretrained import Recipe
from workers.engines.transformers import TransformersEngine

TEXTS = ["hello wörld", "a", "The quick brown fox jumps over the lazy dog. " * 3, "日本", "x = [1, 2]\n", "z" * 70]


def prompt_of(index: int, made: Sequence[int] = (), timeout_seconds: float = 60, **parameters: Any) -> Prompt:
    options = {"max_new_tokens": 12 + 5 * index, "seed": index} | parameters
    text = TEXTS[index % len(TEXTS)]
    return Prompt(f"job{index}", Input(prompt=text), Parameters(**options), timeout_seconds, tuple(made))


@contextmanager
def engine_of(
    architecture: str = "gqa", slots: int = 8, budget_bytes: int = 10**9, **changes: Any
) -> Iterator[TransformersEngine]:
    engine = TransformersEngine.of(
        make_model(architecture, **changes), make_tokenizer(), slots=slots, budget_bytes=budget_bytes, threads=1
    )
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    with engine_of() as made:
        yield made


def submit(engine: TransformersEngine, prompt: Prompt) -> Collected:
    sink = Collected()
    engine.submit(engine.prepare(prompt), sink)
    return sink


def generate(model: Any, prepared: Prepared) -> tuple[int, ...]:
    ids = torch.tensor([prepared.prompt_ids])
    most = prepared.prompt.parameters.max_new_tokens
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)
    return tuple(output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_equal_plain_generate_alone_batched_and_in_chunks(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(architecture)
    with engine_of(architecture, slots=4) as engine:
        prompts = [prompt_of(index) for index in range(6)]
        expected = [generate(model, engine.prepare(prompt)) for prompt in prompts]
        for prompt, ids in zip(prompts, expected, strict=True):
            alone = submit(engine, prompt)
            alone.wait()
            assert alone.ids == ids
        batched = [submit(engine, prompt) for prompt in prompts]
        for sink in batched:
            sink.wait()
        assert [sink.ids for sink in batched] == expected
        monkeypatch.setattr(pace.Pace, "prompt_tokens", 7)
        chunked = [submit(engine, prompt) for prompt in prompts]
        for sink in chunked:
            sink.wait()
        assert [sink.ids for sink in chunked] == expected


def test_a_job_that_joins_changes_no_other(engine: TransformersEngine) -> None:
    model = make_model()
    first = submit(engine, prompt_of(2, max_new_tokens=120))
    sinks = [first]
    for index in range(4):
        first.wait_for_tokens(10 * index + 1)
        sinks.append(submit(engine, prompt_of(index)))
    for sink in sinks:
        sink.wait()
    prompts = [prompt_of(2, max_new_tokens=120), *(prompt_of(index) for index in range(4))]
    assert [sink.ids for sink in sinks] == [generate(model, engine.prepare(prompt)) for prompt in prompts]


@pytest.mark.parametrize("architecture", ["window", "softcap"])
def test_texts_longer_than_the_ring_equal_plain_generate(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of(architecture) as engine:
        for module in ("workers.engines.cache", "workers.engines.loop"):
            monkeypatch.setattr(f"{module}.MAX_CHUNK_TOKENS", 8)
        prompt = prompt_of(2, max_new_tokens=60)
        sink = submit(engine, prompt)
        sink.wait()
        assert sink.ids == generate(make_model(architecture), engine.prepare(prompt))


def test_events_make_up_the_text_and_count_every_token(engine: TransformersEngine) -> None:
    sink = submit(engine, prompt_of(2, temperature=1.0, max_new_tokens=80))
    end = sink.wait()
    assert end.text == sink.text
    assert end.completion_tokens == len(sink.ids)
    assert sink.prompts == [end.prompt_tokens] == [len(TEXTS[2])]
    assert [index for index, _, _ in sink.batches] == list(range(len(sink.ids)))


def test_sampled_texts_depend_on_the_seed_alone(engine: TransformersEngine) -> None:
    def run(seed: int, together: int) -> list[tuple[int, ...]]:
        sinks = [submit(engine, prompt_of(index, temperature=1.5, seed=seed, top_p=0.9)) for index in range(together)]
        for sink in sinks:
            sink.wait()
        return [sink.ids for sink in sinks]

    assert run(5, 6)[:1] == run(5, 1)
    assert run(5, 6) == run(5, 6)
    assert run(5, 3) != run(6, 3)


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 1.2, "top_k": 60}, {"temperature": 1, "stop": ["\x10\x11", "zq"]}]
)
def test_resumed_at_any_token_the_rest_is_the_same(engine: TransformersEngine, options: dict[str, Any]) -> None:
    whole = submit(engine, prompt_of(0, max_new_tokens=30, **options))
    end = whole.wait()
    resumed = {
        count: submit(engine, prompt_of(0, made=whole.ids[:count], max_new_tokens=30, **options))
        for count in range(len(whole.ids) + 1)
    }
    for count, sink in resumed.items():
        assert sink.wait() == end
        assert sink.batches == whole.batches[count:]


def test_a_stop_string_across_tokens_ends_the_text_before_it(engine: TransformersEngine) -> None:
    whole = submit(engine, prompt_of(3, temperature=1.0, max_new_tokens=60))
    text = whole.wait().text
    for start in range(0, len(text) - 3, 7):
        stop = text[start : start + 3]
        sink = submit(engine, prompt_of(3, temperature=1.0, max_new_tokens=60, stop=[stop, "never met"]))
        end = sink.wait()
        assert end.reason is FinishReason.STOP
        assert end.text == sink.text == text[: text.index(stop)]
        assert whole.ids[: len(sink.ids)] == sink.ids


def test_the_models_stop_token_ends_a_job_and_counts() -> None:
    with engine_of() as engine:
        model = make_model()
        ids = generate(model, engine.prepare(prompt_of(0)))
    stop = ids[5]
    with engine_of(eos_token_id=[EOS, stop]) as engine:
        sink = submit(engine, prompt_of(0))
        end = sink.wait()
        assert end.reason is FinishReason.STOP
        assert sink.ids == ids[: ids.index(stop) + 1]
        assert end.completion_tokens == len(sink.ids)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cost_is_the_bytes_of_the_caches(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[JobCache] = []

    def allocate(*arguments: Any) -> JobCache:
        made.append(JobCache(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "JobCache", allocate)
    with engine_of(architecture) as engine:
        prompts = [prompt_of(index) for index in range(5)]
        for sink in [submit(engine, prompt) for prompt in prompts]:
            sink.wait()
        bounds = [engine.prepare(prompt).tokens for prompt in prompts]
        held = sum(cache.memory.untyped_storage().nbytes() for cache in made)
        assert engine.cost(bounds) == held
        assert held == sum(view.nbytes for cache in made for view in (*cache.keys, *cache.values))


def test_a_window_bounds_the_cost() -> None:
    with engine_of("window") as engine:
        assert engine.cost([2000]) == engine.cost([1500]) > engine.cost([100])


def test_messages_go_through_the_chat_template(engine: TransformersEngine) -> None:
    messages = [Message(role="system", content="be brief"), Message(role="user", content="hi")]
    prepared = engine.prepare(Prompt("j", Input(messages=messages), Parameters(max_new_tokens=5), 60))
    assert bytes(make_tokenizer().decode(prepared.prompt_ids), "utf-8") == b"system: be brief\nuser: hi\nassistant: "
    assert prepared.tokens == len(prepared.prompt_ids) + 5


def test_what_cannot_run_is_refused_with_its_figures(engine: TransformersEngine) -> None:
    with pytest.raises(TooLargeError, match=r"needs 2060 tokens \(11?\d? prompt \+ 2048 new\), the context has 2048"):
        engine.prepare(prompt_of(0, max_new_tokens=2048))
    messages = [Message(role="user", content="a"), Message(role="system", content="b")]
    with pytest.raises(InvalidInputError, match="system comes first"):
        engine.prepare(Prompt("j", Input(messages=messages), Parameters(), 60))
    with pytest.raises(InvalidInputError, match="token 258 is not among the model's 258"):
        engine.prepare(prompt_of(0, made=[4, 258]))
    with pytest.raises(InvalidInputError, match="cannot be tokenized"):
        engine.prepare(Prompt("j", Input.model_construct(prompt="\ud800", messages=None), Parameters(), 60))
    cost = engine.cost([len(TEXTS[0].encode()) + 100])
    with engine_of(budget_bytes=cost - 1) as small, pytest.raises(TooLargeError, match=f"{cost} bytes; {cost - 1} are"):
        small.prepare(prompt_of(0, max_new_tokens=100))


def test_jobs_over_slots_or_budget_wait_their_turn() -> None:
    model = make_model()
    with engine_of() as engine:
        bounds = [engine.prepare(prompt_of(index)).tokens for index in range(6)]
        budget = max(engine.cost(bounds) // 3, *(engine.cost([bound]) for bound in bounds))
    limits: list[dict[str, Any]] = [{"slots": 2}, {"budget_bytes": budget}]
    for options in limits:
        with engine_of(**options) as engine:
            sinks = [submit(engine, prompt_of(index)) for index in range(6)]
            for index, sink in enumerate(sinks):
                assert sink.wait().error is None
                assert sink.ids == generate(model, engine.prepare(prompt_of(index)))


def test_a_model_that_attends_otherwise_is_refused() -> None:
    model = make_model()
    rotary = model.model.layers[1].self_attn.o_proj
    calls = iter(range(100))
    rotary.register_forward_hook(lambda module, inputs, output: output * (1 if next(calls) < 1 else 2))
    engine = TransformersEngine.of(model, make_tokenizer(), slots=1, budget_bytes=10**9)
    with pytest.raises(EngineError, match="logits in a packed step differ"):
        engine.start()
    assert not engine.health().alive


def test_random_jobs_staggered_and_canceled_equal_themselves_alone(engine: TransformersEngine) -> None:
    chance = random.Random(11)
    prompts = [
        prompt_of(index, max_new_tokens=chance.randint(1, 40), temperature=chance.choice([0, 0.8, 1.4]))
        for index in range(24)
    ]
    sinks = []
    for index, prompt in enumerate(prompts):
        sinks.append(submit(engine, prompt))
        if index % 5 == 4:
            engine.cancel(prompts[chance.randrange(index)].job_id)
            sinks[chance.randrange(index)].wait_for_tokens(1)
    ends = [sink.wait() for sink in sinks]
    for prompt, sink, end in zip(prompts, sinks, ends, strict=True):
        alone = submit(engine, prompt)
        alone_end = alone.wait()
        assert len(sink.ends) == 1
        if end.reason is FinishReason.CANCELED:
            assert alone.batches[: len(sink.batches)] == sink.batches
        else:
            assert (end, sink.batches) == (alone_end, alone.batches)


def test_a_model_loads_from_a_folder_and_tells_how_far_it_is(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    said: list[tuple[str, float | None]] = []
    options: dict[str, Any] = {"slots": 2, "memory_fraction": 0.5, "threads": 1}
    recipe = Recipe(str(tmp_path / "model"), device="cpu")
    for dtype in ("auto", "bfloat16"):
        engine = TransformersEngine(replace(recipe, dtype=dtype), progress=lambda *words: said.append(words), **options)
        capacity = engine.start()
        assert (capacity.slots, capacity.context_tokens) == (2, 2048)
        assert capacity.budget_bytes > 0
        assert engine.cost([101]) == 100 * 2 * 2 * 2 * 16 * (4 if dtype == "auto" else 2)
        sink = submit(engine, prompt_of(1))
        assert sink.wait().error is None
        engine.close()
    assert [phase for phase, _ in said if phase != "load"] == ["import", "warm-up"] * 2
    fractions = [fraction for phase, fraction in said[: len(said) // 2] if phase == "load" and fraction is not None]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert len(fractions) > 10
    with pytest.raises(EngineError, match="leaves no room"):
        TransformersEngine(recipe, **(options | {"memory_fraction": 1e-9})).start()
