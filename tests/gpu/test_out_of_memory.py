"""A card that is really full: jobs whose caches do not fit wait for others to end, and every text stays what it was."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from bench.bare import BareEngine
from bench.chat import Chat, make_chats
from bench.model import RANDOM, cache_bytes, make_random, make_tokenizer, twin
from workers.engines.transformers import TransformersEngine

SHAPE = RANDOM["random-8b"] | {
    "vocab_size": 2000,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,  # so that four small layers have a say: each prompt ends with the same words
}
JOBS = 8
PROMPT = (1400, 1600)
NEW_TOKENS = 48


def start(model: Any) -> TransformersEngine:
    """An engine whose budget promises room for all jobs, whatever the card has."""
    budget_bytes = cache_bytes(model, JOBS * 2 * PROMPT[1])
    engine = TransformersEngine.of(model, make_tokenizer(SHAPE["vocab_size"]), slots=JOBS, budget_bytes=budget_bytes)
    engine.start()
    return engine


def calm_texts(model: Any) -> tuple[Sequence[Chat], Sequence[str]]:
    """The chats, and what they are answered with while there is room."""
    engine = start(model)
    try:
        chats = make_chats(engine, JOBS, PROMPT, NEW_TOKENS, "full")
        return chats, BareEngine(engine).answer(chats, NEW_TOKENS).texts
    finally:
        engine.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_full_card_delays_jobs_and_changes_no_text(caplog: pytest.LogCaptureFixture) -> None:
    model = make_random(SHAPE, "cuda", torch.float32)
    other = twin(model)  # before an engine has it
    chats, texts = calm_texts(model)
    engine = start(other)
    ballast = None
    try:
        BareEngine(engine).answer(chats[:1], NEW_TOKENS)  # what a first step allocates for good is there now
        torch.cuda.empty_cache()
        half = engine.cost([len(chat.prompt_ids) + NEW_TOKENS for chat in chats]) // 2
        ballast = torch.empty(torch.cuda.mem_get_info()[0] - half, dtype=torch.uint8, device="cuda")
        with caplog.at_level(logging.WARNING, "workers.engines.loop"):
            crowded = BareEngine(engine).answer(chats, NEW_TOKENS)
    finally:
        del ballast
        engine.close()
    assert "out of memory" in caplog.text
    assert crowded.texts == texts
    assert len(set(texts)) == JOBS
