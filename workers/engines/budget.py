"""How many bytes all jobs' caches may take together: a part of the device, less the weights, less what a step needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nowserving.errors import EngineError
from workers.engines.attention import Segment
from workers.engines.cache import MAX_CHUNK_TOKENS, JobCache
from workers.engines.forward import forward
from workers.engines.model import LoadedModel
from workers.engines.pace import MOST_TOKENS
from workers.memory import CudaProbe, HostProbe, MemoryProbe

SAMPLING_BYTES = 6 * 4 + 3 * 8
"""Of each logit: itself and the copies in float32 and float64 that sampling makes."""
ACTIVATIONS = 12
"""Tensors [tokens, hidden] alive at once in a layer, beside three [tokens, intermediate]; hidden is the width of all
heads together where that is larger. Each expert of a token takes two [tokens, hidden] and seven as wide as itself more.
"""


def budget_bytes(loaded: LoadedModel, memory_fraction: float, step_bytes: int) -> int:
    """The budget in bytes of the device the model is on. Raises EngineError if none is left."""
    probe: MemoryProbe = CudaProbe(str(loaded.device)) if loaded.device.type == "cuda" else HostProbe()
    total = probe.read().total_bytes
    budget = int(memory_fraction * total) - loaded.weights_bytes - step_bytes
    if budget <= 0:
        raise EngineError(
            f"memory_fraction {memory_fraction} of {total >> 20} MB leaves no room for jobs beside "
            f"{loaded.weights_bytes >> 20} MB of weights and {step_bytes >> 20} MB for a step"
        )
    return budget


def most_step_bytes(loaded: LoadedModel, slots: int) -> int:
    """An upper bound of what one step allocates beside weights and caches; on a card no less than what one took."""
    bound = _bound_bytes(loaded, slots)
    return max(bound, _measured_bytes(loaded, slots)) if loaded.device.type == "cuda" else bound


def _largest(size: int | Sequence[int]) -> int:
    """Gemma 3n has a size for each layer."""
    return int(size) if isinstance(size, int) else max(map(int, size))


def _prompts_a_step(slots: int) -> int:
    """How many prompts' longest chunks the pace lets into one step."""
    return min(slots, MOST_TOKENS // MAX_CHUNK_TOKENS)


def _bound_bytes(loaded: LoadedModel, slots: int) -> int:
    config = loaded.model.config.get_text_config()
    segments = _prompts_a_step(slots)
    tokens = segments * MAX_CHUNK_TOKENS + slots
    heads = max(layer.key_dim for layer in loaded.layout.layers) * int(config.num_attention_heads)
    hidden = max(int(config.hidden_size), heads)
    intermediate = _largest(getattr(config, "intermediate_size", None) or 4 * hidden)
    experts = int(getattr(config, "num_experts_per_tok", None) or 0)
    expert = _largest(getattr(config, "moe_intermediate_size", None) or intermediate)
    widths = ACTIVATIONS * hidden + 3 * intermediate + experts * (2 * int(config.hidden_size) + 7 * expert)
    layer = tokens * widths * loaded.layout.dtype.itemsize
    mask = segments * MAX_CHUNK_TOKENS * loaded.context_tokens * (1 + loaded.layout.dtype.itemsize)
    return layer + mask + slots * loaded.vocabulary * SAMPLING_BYTES


@torch.inference_mode()
def _measured_bytes(loaded: LoadedModel, slots: int) -> int:
    tokens = min(MAX_CHUNK_TOKENS, loaded.context_tokens)
    segments = [Segment(JobCache(loaded.layout, tokens), 0, [0] * tokens) for _ in range(_prompts_a_step(slots))]
    torch.cuda.reset_peak_memory_stats(loaded.device)
    before = int(torch.cuda.memory_allocated(loaded.device))
    forward(loaded.model, segments, [True] * len(segments), loaded.device)
    return int(torch.cuda.max_memory_allocated(loaded.device)) - before
