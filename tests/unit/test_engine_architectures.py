"""Families of models beside those that all other tests run on: texts are plain `generate`'s, or it is refused."""

import logging
from typing import Any

import pytest

from nowserving.errors import EngineError, TooLargeError
from nowserving.job import Input, Parameters
from tests.oracle import Oracle
from tests.tiny import Collected, make_model_of, make_tokenizer
from workers.engines.engine import Prompt
from workers.engines.model import adopt_model
from workers.engines.transformers import TransformersEngine

NEW_TOKENS = 40
"""More than any window here."""
WINDOW = {"sliding_window": 24}
TYPES = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
GQA = {"num_key_value_heads": 2, "head_dim": 16}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_experts": 4, "n_routed_experts": 4}
GROUPS = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 258, "num_kv_shared_layers": 0}
SERVED: dict[str, dict[str, Any]] = {
    "afmoe": GQA | MOE | TYPES | {"num_dense_layers": 1},
    "deepseek_v3": MOE | GROUPS | LATENT,
    "exaone4": GQA | TYPES,
    "gemma3_text": GQA | TYPES,
    "gemma3n_text": GQA | TYPES | PER_LAYER | {"laurel_rank": 8},
    "glm4_moe": GQA | MOE | GROUPS,
    "gpt_neox": {},
    "olmo3": GQA | TYPES,
    "phi3": WINDOW | {"num_key_value_heads": 2},
    "qwen3_moe": GQA | MOE,
}
LIMITED: dict[str, dict[str, Any]] = {
    "llama4_text": GQA | {"attention_chunk_size": 24, "intermediate_size_mlp": 64, "num_local_experts": 2},
    "phimoe": GQA | WINDOW | {"num_local_experts": 2},
    "phi3": {
        "num_key_value_heads": 2,
        "original_max_position_embeddings": 24,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [4.0] * 8,
        },
    },
    "qwen2_moe": GQA | MOE | TYPES | {"use_sliding_window": True, "shared_expert_intermediate_size": 32},
}
"""Their attention is not told how far it may look back, only their masks are, which this engine does not make; or their
rotary angles depend on the longest text of a step.
"""
REFUSED = {"bloom": {"n_layer": 2, "n_head": 4}, "mamba": {"state_size": 4}}


def engine_of(kind: str, options: dict[str, Any]) -> tuple[TransformersEngine, Oracle]:
    model, own = (make_model_of({"model_type": kind, **options}) for _ in range(2))
    tokenizer = make_tokenizer()
    return TransformersEngine.of(model, tokenizer, slots=2, budget_bytes=10_000_000), Oracle(own, tokenizer)


def run(engine: TransformersEngine, oracle: Oracle, texts: list[str], new_tokens: int) -> None:
    """Run all texts at once; each must be plain `generate`'s."""
    engine.start()
    try:
        asked = []
        for text in texts:
            # Sampled: greedily some of these models repeat one token for ever.
            parameters = Parameters(max_new_tokens=new_tokens, temperature=3, seed=1, ignore_eos=True)
            prompt = Prompt(text, Input(prompt=text), parameters, 60)
            prepared, sink = engine.prepare(prompt), Collected()
            engine.submit(prepared, sink)
            asked.append((prompt, prepared, sink))
        for prompt, prepared, sink in asked:
            assert sink.wait().error is None
            assert sink.ids == oracle.generate(prompt, prepared.prompt_ids)
            assert len(set(sink.ids)) > 5, "too uniform a text to show anything"
    finally:
        engine.close()


@pytest.mark.parametrize("kind", SERVED)
def test_texts_are_those_of_plain_generate(kind: str) -> None:
    run(*engine_of(kind, SERVED[kind]), ["The quick brown fox", "x = [1, 2]"], NEW_TOKENS)


@pytest.mark.parametrize("kind", LIMITED)
def test_no_job_is_run_beyond_what_is_computed_as_the_model_does(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    engine, oracle = engine_of(kind, LIMITED[kind])
    with caplog.at_level(logging.WARNING, "workers"):
        run(engine, oracle, ["The quick", "x = [1"], 15)
    assert "limited to 24 tokens" in caplog.text
    with pytest.raises(TooLargeError, match="24"):
        engine.prepare(Prompt("long", Input(prompt="The quick"), Parameters(max_new_tokens=16), 60))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_attends_in_another_way_is_refused_and_where_to_serve_it_is_said(kind: str) -> None:
    with pytest.raises(EngineError, match=r'its layer 0 does not use .* interface; .* \(engine = "openai"\)'):
        adopt_model(make_model_of({"model_type": kind, **REFUSED[kind]}), make_tokenizer())
