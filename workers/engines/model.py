"""A model ready to run, and how it is found out, by running it, what its attention keeps of each token."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer

from nowserving.errors import EngineError, OutOfMemoryError
from workers.engines.attention import NAME, Segment, ShapeTracer
from workers.engines.cache import CacheLayout, JobCache, LayerShape
from workers.engines.failure import first_line
from workers.engines.forward import forward, run
from workers.engines.linear import pack, packed_bytes
from workers.engines.norm import fuse_norms
from workers.engines.text import Pieces

log = logging.getLogger(__name__)

PROBE_TOKENS = 24
TOLERANCES = {torch.float32: 1e-3}
LOOSE_TOLERANCE = 0.1
"""How far logits of the packed way may be from the model's own, as a part of the largest; below float32, loosely."""
ROPES_BY_LENGTH = ("dynamic", "longrope")
WIDTHS = {"full_attention": "", "sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""The types of layers that are known, and what a configuration calls the width of their masks."""
STRANGE = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)
"""What a model raises that cannot be run as it is run here."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    `template` is transformers' tokenizer, for its chat template alone; `tokenizer` does the rest: nobody changes it, so
    that several threads may use it.
    """

    model: Any
    template: Any
    tokenizer: Tokenizer
    pieces: Pieces
    device: torch.device
    layout: CacheLayout
    context_tokens: int
    vocabulary: int
    stop_ids: frozenset[int]
    weights_bytes: int


def adopt_model(model: Any, tokenizer: Any) -> LoadedModel:
    """Take over a model in memory: from then on it runs in this engine alone.

    Raises EngineError if it cannot, or OutOfMemoryError.
    """
    device = model.device
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise EngineError(f"{type(tokenizer).__name__} is not a tokenizer of the tokenizers library: convert it first")
    own = Tokenizer.from_str(backend.to_str())
    own.no_truncation()
    own.no_padding()
    config = model.config.get_text_config()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    layout = _layout(model, config, vocabulary, device)
    return LoadedModel(
        model=model,
        template=tokenizer,
        tokenizer=own,
        pieces=Pieces(own),
        device=device,
        layout=layout,
        context_tokens=_context_tokens(config, layout.layers),
        vocabulary=vocabulary,
        stop_ids=_stop_ids(model, tokenizer),
        weights_bytes=sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) + packed_bytes(model),
    )


def _layout(model: Any, config: Any, vocabulary: int, device: torch.device) -> CacheLayout:
    try:
        return _probe(model, config, vocabulary, device)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError("the device has no memory left beside the model's weights to try it") from error
    except torch.AcceleratorError:
        raise  # the device's trouble, not the model's
    except STRANGE as error:
        raise _unsupported(model, first_line(error)) from error


@torch.inference_mode()
def _probe(model: Any, config: Any, vocabulary: int, device: torch.device) -> CacheLayout:
    """Trace the shapes, then compare two packed steps with the model's own way on the same tokens.

    So a model that attends in another way (a recurrent state, ALiBi) is refused, not run wrong. Raises EngineError, or
    what the model raises.
    """
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - set(WIDTHS)):
        raise _unsupported(model, f"it has layers of the type {others[0]!r}")
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("eager")
    ids = [(7919 * place + 13) % vocabulary for place in range(PROBE_TOKENS)]
    own = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, -1].float()
    model.set_attn_implementation(NAME)
    pack(model)
    if device.type == "cuda":
        fuse_norms(model)
    tracer = ShapeTracer()
    run(model, ids, range(PROBE_TOKENS), [PROBE_TOKENS - 1], tracer, device)
    if left := [layer for layer in range(config.num_hidden_layers) if layer not in tracer.layers]:
        raise _unsupported(model, f"its layer {left[0]} does not use transformers' attention interface")
    shapes = tuple(tracer.layers[layer] for layer in range(config.num_hidden_layers))
    layout = CacheLayout(shapes, model.dtype, device)
    first, second = JobCache(layout, PROBE_TOKENS), JobCache(layout, PROBE_TOKENS)
    half, last = PROBE_TOKENS // 2, PROBE_TOKENS - 1
    forward(model, [Segment(first, 0, ids[:half]), Segment(second, 0, ids[:last])], [False, False], device)
    rest = [Segment(first, half, ids[half:]), Segment(second, last, ids[last:])]
    ours = forward(model, rest, [True, True], device)
    apart = ((ours - own).abs().max() / own.abs().max()).item()
    if not apart <= TOLERANCES.get(model.dtype, LOOSE_TOLERANCE):
        raise _unsupported(model, f"its logits in a packed step differ by {apart:.1%} from transformers' own")
    return layout


def _unsupported(model: Any, why: str) -> EngineError:
    kind = type(model).__name__
    return EngineError(f'{kind} is not supported by this engine: {why}; a server may serve it (engine = "openai")')


def _context_tokens(config: Any, layers: Sequence[LayerShape]) -> int:
    """How many tokens of a job are computed as the model itself does.

    Fewer than its context where rotary angles depend on the longest text of a step, and where a mask alone, which this
    engine does not make, limits how far a layer looks back.
    """
    context = int(config.max_position_embeddings)
    limits = [_mask_width(config, number) for number, layer in enumerate(layers) if layer.window is None]
    rope = getattr(config, "rope_parameters", None) or {}
    limits += [
        angles.get("original_max_position_embeddings")
        for angles in (rope, *rope.values())  # some models have them by the layer's type
        if isinstance(angles, Mapping) and angles.get("rope_type") in ROPES_BY_LENGTH
    ]
    if getattr(config, "attn_temperature_tuning", False):
        limits.append(getattr(config, "floor_scale", None))  # further on queries are scaled by their place in the row
    right = min(int(limit) for limit in (context, *limits) if limit)
    if right < context:
        log.warning(
            "jobs are limited to %d tokens of the model's %d: beyond that this engine would compute something else",
            right,
            context,
        )
    return right


def _mask_width(config: Any, layer: int) -> int | None:
    """How many tokens a layer's mask lets it look back on, by the configuration; None or 0: all."""
    types = getattr(config, "layer_types", None)
    name = WIDTHS.get(types[layer]) if types else "sliding_window"
    width: int | None = getattr(config, name, None) if name else None
    return width


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    if configured is None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return frozenset()
    return frozenset([configured] if isinstance(configured, int) else configured)
