"""Families of models beside those that all other tests run on: texts are plain `generate`'s, or it is refused."""

import logging
import re
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from nowserving.errors import EngineError, OutOfMemoryError, TooLargeError
from nowserving.job import Input, Parameters
from tests.oracle import Oracle
from tests.tiny import ARCHITECTURES, Collected, make_model, make_model_of, make_tokenizer
from workers.engines import scoring
from workers.engines.attention import Segment
from workers.engines.cache import JobCache
from workers.engines.engine import Prompt
from workers.engines.forward import forward
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
MLA = MOE | GROUPS | LATENT
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 258, "num_kv_shared_layers": 0}
SERVED: dict[str, dict[str, Any]] = {
    "afmoe": GQA | MOE | TYPES | {"num_dense_layers": 1},
    "deepseek_v3": MLA,
    "exaone4": GQA | TYPES,
    "gemma3_text": GQA | TYPES,
    "gemma3n_text": GQA | TYPES | PER_LAYER | {"laurel_rank": 8},
    "glm4_moe": GQA | MOE | GROUPS,
    "gpt_neox": {},
    "olmo3": GQA | TYPES,
    "phi3": WINDOW | {"num_key_value_heads": 2},
    "qwen3_moe": GQA | MOE,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "original_max_position_embeddings": 24,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}
LIMITED: dict[str, dict[str, Any]] = {
    "gemma3_text": GQA
    | {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 40}
    | {
        "rope_parameters": {
            "full_attention": LONG_ROPE | {"factor": 4.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        }
    },
    "llama4_text": GQA | {"attention_chunk_size": 24, "intermediate_size_mlp": 64, "num_local_experts": 2},
    "phimoe": GQA | WINDOW | {"num_local_experts": 2},
    "phi3": {"num_key_value_heads": 2, "original_max_position_embeddings": 24, "rope_parameters": LONG_ROPE},
    "qwen2_moe": GQA | MOE | TYPES | {"use_sliding_window": True, "shared_expert_intermediate_size": 32},
}
"""Their attention is not told how far it may look back, only their masks are, which this engine does not make; or their
rotary angles depend on the longest text of a step.
"""
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bart": (
        {"d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4},
        "its logits in a packed step differ by ",
    ),
    "bloom": ({"n_layer": 2, "n_head": 4}, "its layer 0 does not use transformers' attention interface"),
    "mamba": ({"state_size": 4}, "it has layers of the type 'linear_attention'"),
    "qwen3": (GQA | {"layer_types": ["full_attention", "indexed_attention"]}, "layers of the type 'indexed_attention'"),
    "stablelm": ({"num_key_value_heads": 4}, "StableLmAttention does not attend in a way this engine knows"),
}


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
    options, why = REFUSED[kind]
    with pytest.raises(EngineError, match=re.escape(why) + r'.*; .* \(engine = "openai"\)$'):
        adopt_model(make_model_of({"model_type": kind, **options}), make_tokenizer())


@pytest.mark.parametrize("options", [ARCHITECTURES["gqa"], ARCHITECTURES["sinks"], {"model_type": "deepseek_v3"} | MLA])
def test_a_prompts_scores_are_never_all_in_memory(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = adopt_model(make_model_of(options), make_tokenizer())
    kernels = []

    def noted(query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False, **rest: Any) -> Any:
        kernels.append(torch._fused_sdp_choice(query, key, value, attn_mask, 0.0, is_causal, **rest))
        return scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, is_causal=is_causal, **rest)

    monkeypatch.setattr(scoring, "scaled_dot_product_attention", noted)
    cache = JobCache(loaded.layout, 90)
    with torch.inference_mode():
        for start in (0, 30, 60):
            forward(loaded.model, [Segment(cache, start, [5] * 30)], [True], loaded.device)
    assert set(kernels) == {SDPBackend.FLASH_ATTENTION.value}


def test_capped_scores_are_made_for_a_few_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = adopt_model(make_model("softcap"), make_tokenizer())

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return forward(loaded.model, [Segment(JobCache(loaded.layout, 50), 0, [*range(50)])], [True], loaded.device)

    whole = logits()
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 7)
    most = []
    real = scoring._attend_softcapped

    def noted(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        most.append(query.shape[1])
        return real(query, *rest)

    monkeypatch.setattr(scoring, "_attend_softcapped", noted)
    assert (logits() - whole).abs().max() <= 1e-5 * whole.abs().max()
    assert max(most) == 7


def test_a_device_that_is_full_is_not_the_models_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("workers.engines.model.forward", full)
    with pytest.raises(OutOfMemoryError, match="no memory left"):
        adopt_model(make_model("gqa"), make_tokenizer())
