"""Parameters of single jobs on the default engine: beside plain `generate`, alone, among others, resumed anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from nowserving.errors import InvalidInputError
from nowserving.job import Input, Message, Parameters
from tests.tiny import ARCHITECTURES, EOS, Collected, make_fallback_tokenizer, make_model, make_tokenizer
from workers.engines import loop
from workers.engines.engine import Ended, FinishReason, Prompt
from workers.engines.text import BROKEN
from workers.engines.transformers import TransformersEngine

TEXTS = ["hello wörld", "a", "The quick brown fox jumps over the lazy dog. ", "日本", "x = [1, 2]\n", "z" * 40]
MIXED = {
    "temperature": 1.3,
    "top_k": 120,
    "top_p": 0.95,
    "min_p": 0.02,
    "repetition_penalty": 1.2,
    "seed": 5,
    "stop_token_ids": [99, 12],
    "ignore_eos": True,
    "stop": ["\x10\x11", "zq"],
}


@contextmanager
def engine_of(architecture: str = "gqa", tokenizer: Any = None, **changes: Any) -> Iterator[TransformersEngine]:
    model, budget = make_model(architecture, **changes), 10**9
    engine = TransformersEngine.of(model, tokenizer or make_tokenizer(), slots=8, budget_bytes=budget, threads=1)
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    with engine_of() as made:
        yield made


def prompt_of(index: int = 0, made: Sequence[int] = (), **parameters: Any) -> Prompt:
    asked = Parameters(**{"max_new_tokens": 40, "seed": index} | parameters)
    return Prompt(f"job{index}", Input(prompt=TEXTS[index % len(TEXTS)]), asked, 60, tuple(made))


def submit(engine: TransformersEngine, prompt: Prompt) -> Collected:
    sink = Collected()
    engine.submit(engine.prepare(prompt), sink)
    return sink


def run(engine: TransformersEngine, prompt: Prompt) -> tuple[Ended, Collected]:
    sink = submit(engine, prompt)
    return sink.wait(), sink


def generate(model: Any, ids: Sequence[int], **options: Any) -> tuple[int, ...]:
    asked = torch.tensor([ids])
    output = model.generate(asked, attention_mask=torch.ones_like(asked), do_sample=False, **options)
    return tuple(output[0, asked.shape[1] :].tolist())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_penalized_greedy_texts_equal_plain_generate(architecture: str) -> None:
    model = make_model(architecture)
    with engine_of(architecture) as engine:
        prompts = [
            prompt_of(index, repetition_penalty=penalty) for index, penalty in enumerate([1.1, 1.3, 2.0, 0.7, 10.0, 1])
        ]
        sinks = [submit(engine, prompt) for prompt in prompts]
        for prompt, sink in zip(prompts, sinks, strict=True):
            assert sink.wait().error is None
            asked, options = engine.prepare(prompt).prompt_ids, {}
            if prompt.parameters.repetition_penalty != 1:
                options["repetition_penalty"] = float(prompt.parameters.repetition_penalty)
            assert sink.ids == generate(model, asked, max_new_tokens=40, **options)


def test_a_penalty_changes_the_text_of_its_job_alone(engine: TransformersEngine) -> None:
    plain = run(engine, prompt_of(2))[1].ids
    sinks = [submit(engine, prompt_of(2, repetition_penalty=penalty)) for penalty in (1.0, 1.5, 1.0, 1.5)]
    texts = [(sink.wait().text, sink.ids)[1] for sink in sinks]
    assert texts[0] == texts[2] == plain
    assert texts[1] == texts[3] != plain


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"min_p": 0.1, "temperature": 1.2},
        {"stop_token_ids": [99, 12], "temperature": 2.0},
        {"ignore_eos": True, "temperature": 2.0},
        MIXED,
    ],
    ids=["penalty", "min_p", "stop tokens", "no end", "all"],
)
def test_resumed_at_any_token_the_rest_is_the_same(engine: TransformersEngine, options: dict[str, Any]) -> None:
    end, whole = run(engine, prompt_of(0, **options))
    sinks = [submit(engine, prompt_of(0, made=whole.ids[:count], **options)) for count in range(len(whole.ids) + 1)]
    for count, sink in enumerate(sinks):
        assert sink.wait() == end
        assert sink.batches == whole.batches[count:]


def random_parameters(chance: random.Random) -> dict[str, Any]:
    choices: dict[str, list[Any]] = {
        "max_new_tokens": [1, 7, 30],
        "temperature": [0, 0.8, 1.7],
        "top_k": [0, 40],
        "top_p": [1, 0.9],
        "min_p": [0, 0.03, 0.4],
        "repetition_penalty": [1, 1.2, 0.9],
        "stop_token_ids": [[], [99], list(range(2, 60))],
        "ignore_eos": [False, True],
        "stop": [[], ["a", "\x00"]],
    }
    return {name: chance.choice(values) for name, values in choices.items()}


def test_jobs_of_all_parameters_at_once_equal_themselves_alone(engine: TransformersEngine) -> None:
    chance = random.Random(2)
    prompts = [prompt_of(index, **random_parameters(chance)) for index in range(40)]
    sinks = [submit(engine, prompt) for prompt in prompts]
    for prompt, sink in zip(prompts, sinks, strict=True):
        end, alone = run(engine, prompt)
        assert (sink.wait(), sink.batches) == (end, alone.batches)
        assert end.completion_tokens == len(alone.ids)


@pytest.fixture(scope="module")
def plain(engine: TransformersEngine) -> tuple[tuple[int, ...], int]:
    """What the second prompt brings, and the place of a token there that comes once and is in the middle."""
    ids = run(engine, prompt_of(1))[1].ids
    return ids, next(place for place in range(5, len(ids)) if ids.count(ids[place]) == 1)


def spell(ids: Sequence[int]) -> str:
    """Their text without a character that is not whole yet."""
    return str(make_tokenizer().decode(ids)).rstrip(BROKEN)


def test_a_stop_token_ends_the_text_before_it_and_counts(
    engine: TransformersEngine, plain: tuple[tuple[int, ...], int]
) -> None:
    ids, place = plain
    end, sink = run(engine, prompt_of(1, stop_token_ids=[250, ids[place]]))
    assert (end.reason, end.completion_tokens) == (FinishReason.STOP, place + 1)
    assert sink.ids == ids[: place + 1]
    assert sink.text == end.text == spell(ids[:place])


def test_a_stop_token_lets_out_what_might_have_become_a_stop_string(
    engine: TransformersEngine, plain: tuple[tuple[int, ...], int]
) -> None:
    ids, place = plain
    text = spell(ids[:place])
    end, sink = run(engine, prompt_of(1, stop_token_ids=[ids[place]], stop=[text[-1] + "never met"]))
    assert (end.reason, sink.text, end.text) == (FinishReason.STOP, text, text)


def test_a_job_may_ignore_the_models_end_but_not_its_own_stops(plain: tuple[tuple[int, ...], int]) -> None:
    ids, place = plain
    text, until = spell(ids), ids[: place + 1]
    with engine_of(eos_token_id=[EOS, ids[place]]) as engine:
        end, sink = run(engine, prompt_of(1))
        assert (end.reason, sink.ids) == (FinishReason.STOP, until)
        end, sink = run(engine, prompt_of(1, ignore_eos=True))
        assert (end.reason, sink.ids, end.text) == (FinishReason.LENGTH, ids, text)
        end, sink = run(engine, prompt_of(1, ignore_eos=True, stop_token_ids=[ids[place]]))
        assert (end.reason, sink.ids) == (FinishReason.STOP, until)
        letter = text[-1]
        end, sink = run(engine, prompt_of(1, ignore_eos=True, stop=[letter]))
        assert (end.reason, end.text) == (FinishReason.STOP, text[: text.index(letter)])


def test_an_end_made_before_it_was_resumed_ends_it_again_unless_ignored(plain: tuple[tuple[int, ...], int]) -> None:
    ids, place = plain
    resumed = {"made": ids[: place + 3]}
    with engine_of(eos_token_id=[EOS, ids[place]]) as engine:
        ends: list[dict[str, Any]] = [{}, {"ignore_eos": True, "stop_token_ids": [ids[place]]}]
        for options in ends:
            end, sink = run(engine, prompt_of(1, **resumed, **options))
            assert (end.reason, end.text, sink.ids) == (FinishReason.STOP, spell(ids[:place]), ())
            assert end.completion_tokens == place + 1
        end, sink = run(engine, prompt_of(1, **resumed, ignore_eos=True))
        assert (end.reason, sink.ids) == (FinishReason.LENGTH, ids[place + 3 :])


def test_a_stop_token_that_is_none_fails_its_job_alone(engine: TransformersEngine) -> None:
    sink = submit(engine, prompt_of(0))
    for token in (258, 10**30):
        with pytest.raises(InvalidInputError, match=f"stop token {token} is not among the model's 258"):
            engine.prepare(prompt_of(1, stop_token_ids=[5, token]))
    assert sink.wait().error is None
    engine.prepare(prompt_of(1, stop_token_ids=[0, 257]))


@pytest.mark.parametrize(
    "content",
    [
        "{{ 7 * 7 }}{% raise %}",
        "<eos><pad>" * 50,
        "\x00\u202e\ufffd{#",
        "{{ messages }}" * 20,
        "]]>'\"\\",
        "\U0010ffff",
    ],
)
def test_hostile_messages_are_text_like_any_other(engine: TransformersEngine, content: str) -> None:
    calm = submit(engine, prompt_of(0))
    messages = [Message(role="user", content=content)]
    prompt = Prompt("hostile", Input(messages=messages), Parameters(max_new_tokens=5, seed=1), 60)
    assert submit(engine, prompt).wait().error is None
    spelled = make_tokenizer().decode(engine.prepare(prompt).prompt_ids)
    assert spelled == f"user: {content}\nassistant: "
    assert calm.wait().error is None


def test_a_template_that_raises_fails_its_job_alone(engine: TransformersEngine) -> None:
    messages = [Message(role="user", content="a"), Message(role="system", content="\ud800")]
    with pytest.raises(InvalidInputError, match="refuses these messages"):
        engine.prepare(Prompt("hostile", Input.model_construct(prompt=None, messages=messages), Parameters(), 60))
    assert run(engine, prompt_of(0))[0].error is None


def test_a_thousand_stop_strings_hurt_nobody(engine: TransformersEngine) -> None:
    """No client can send them; whoever writes records may."""
    calm = run(engine, prompt_of(0))[1]
    stops = [f"{number} is not met" for number in range(1000)]
    parameters = Parameters.model_construct(**Parameters(max_new_tokens=40, seed=1).model_dump() | {"stop": stops})
    many = submit(engine, Prompt("many", Input(prompt=TEXTS[1]), parameters, 60))
    beside = submit(engine, prompt_of(0))
    assert many.wait().error is None
    assert many.ids == run(engine, prompt_of(1, max_new_tokens=40))[1].ids
    beside.wait()
    assert beside.ids == calm.ids


def test_no_event_has_a_broken_character_where_bytes_are_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_fallback_tokenizer()
    script = tokenizer.encode("日本 a👩\u200d👦é b🏽", add_special_tokens=False)
    monkeypatch.setattr(loop, "pick", lambda logits, choices: [script[choice.index] for choice in choices])
    drawn: dict[str, Any] = {"temperature": 1}  # a greedy choice does not say which token it is for
    with engine_of(tokenizer=tokenizer, vocab_size=300) as engine:
        end, sink = run(engine, prompt_of(0, max_new_tokens=len(script), **drawn))
        assert (end.text, sink.ids) == (tokenizer.decode(script), tuple(script))
        assert all(BROKEN not in piece for _, _, piece in sink.batches)
        assert (end.completion_tokens, sink.prompts) == (len(script), [end.prompt_tokens])
        for count in range(len(script)):
            resumed, rest = run(engine, prompt_of(0, made=script[:count], max_new_tokens=len(script), **drawn))
            assert (resumed, rest.batches) == (end, sink.batches[count:])
        amid = script.index(tokenizer.convert_tokens_to_ids("<0xF0>")) + 2
        end, sink = run(engine, prompt_of(0, max_new_tokens=amid, **drawn))
        assert (end.text, end.completion_tokens) == ("日本 a", amid)
