"""What a step may take is no less than what one takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.tiny import make_model_of, make_tokenizer
from workers.engines.attention import Segment
from workers.engines.budget import most_step_bytes
from workers.engines.cache import JobCache
from workers.engines.forward import forward
from workers.engines.model import adopt_model

TOKENS = 1024
"""The longest chunk of a prompt, of which one here goes before another."""
WIDE = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
EXPERTS = {"num_local_experts": 8, "num_experts": 8, "num_experts_per_tok": 4}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS | {"moe_intermediate_size": 768},
    "gpt_oss": EXPERTS | ROPE | {"layer_types": ["full_attention"] * 2},
}


def peak_bytes(profiled: Any) -> int:
    """The most that was allocated at once, beside what was there before."""
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_prompts_step_stays_below_its_bound(kind: str) -> None:
    loaded = adopt_model(make_model_of({"model_type": kind, **WIDE, **KINDS[kind]}), make_tokenizer())
    cache = JobCache(loaded.layout, 2 * TOKENS)
    with torch.inference_mode():
        forward(loaded.model, [Segment(cache, 0, [5] * TOKENS)], [False], loaded.device)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            forward(loaded.model, [Segment(cache, TOKENS, [5] * TOKENS)], [True], loaded.device)
    taken = peak_bytes(profiled)
    assert 1 << 20 < taken <= most_step_bytes(loaded, 1)
