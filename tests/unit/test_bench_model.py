"""The engine bench's own models: made in code where they run, the same in each process."""

from typing import Any

import pytest
import torch

from bench.bandwidth import weights_bytes
from bench.bare import BareEngine
from bench.chat import make_chats
from bench.contest import Plan, measure
from bench.errors import BenchError
from bench.model import RANDOM, engine, make_random, make_tokenizer, twin
from bench.ways import Generate
from nowserving.catalog import Model
from tests.tiny import make_model
from workers.engines.transformers import TransformersEngine

SMALL = RANDOM["random-8b"] | {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.5,  # so that two small layers have a say
}


def test_the_random_model_has_eight_billion_parameters() -> None:
    model = make_random(RANDOM["random-8b"], "meta", torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_030_261_248
    assert {(parameter.dtype, parameter.device.type) for parameter in model.parameters()} == {(torch.bfloat16, "meta")}


def test_random_weights_are_the_same_each_time() -> None:
    one, other = (make_random(SMALL, "cpu", torch.float32).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(one[name].std() > 0 for name in one if "proj" in name)


def test_every_token_of_the_random_model_has_a_text_of_its_own() -> None:
    tokenizer = make_tokenizer(400)
    assert tokenizer.decode(tokenizer("naïve 😀")["input_ids"]) == "naïve 😀"
    assert len({tokenizer.decode([token]) for token in range(258, 400)}) == 142


def test_what_the_engine_does_to_its_model_does_not_touch_the_twin() -> None:
    model, tokenizer = make_random(SMALL, "cpu", torch.float32), make_tokenizer(400)
    plain = twin(model)
    assert plain.lm_head.weight is model.lm_head.weight
    made = TransformersEngine.of(model, tokenizer, slots=4, budget_bytes=1 << 24, threads=1)
    made.start()
    try:
        chats = make_chats(made, 4, (40, 80), 8, "seed")
        assert {chat.content for chat in chats}.isdisjoint(
            chat.content for chat in make_chats(made, 4, (40, 80), 8, "the next round")
        )
        ours, theirs = BareEngine(made).answer(chats, 8), Generate(plain, tokenizer).answer(chats, 8)
    finally:
        made.close()
    assert ours.texts == theirs.texts
    assert len(set(ours.texts)) > 1
    assert all(text for text in ours.texts)


def test_a_worker_makes_it_from_its_catalog() -> None:
    model = Model(name="bench", engine="bench.model:engine", source="tiny@1000000", slots=3, device="cpu", threads=1)
    made: Any = engine(model)
    try:
        capacity = made.start()
    finally:
        made.close()
    assert (capacity.slots, capacity.budget_bytes) == (3, 1_000_000)


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_reads_the_embeddings_only_where_they_are_the_head_too(tied: bool) -> None:
    model = make_model(tie_word_embeddings=tied)
    table = model.get_input_embeddings().weight.nbytes
    every = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert weights_bytes(model) == (every if tied else every - table)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_bench_without_its_card_says_so_in_one_sentence() -> None:
    with pytest.raises(BenchError, match="no CUDA device"):
        measure(Plan("random-8b", device="cuda"))
