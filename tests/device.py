"""A real tiny model on a device that can be made to fail, named in a catalog as `tests.device:doomed`."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from nowserving.catalog import Model
from tests.tiny import make_model, make_tokenizer
from workers.engines.transformers import TransformersEngine

NEVER = 9999
"""A stop token outside the vocabulary: jobs run to their length."""
STEP_SECONDS = 0.03


def doomed(model: Model) -> TransformersEngine:
    """An engine whose next step fails, as a GPU does after a device-side assert, once `source` is a file.

    The file is gone then: of several workers one fails.
    """
    trigger, tiny = Path(model.source), make_model(eos_token_id=NEVER)

    def step(*_: object) -> None:
        time.sleep(STEP_SECONDS)
        try:
            trigger.unlink()
        except FileNotFoundError:
            return
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    tiny.register_forward_pre_hook(step)
    return TransformersEngine.of(tiny, make_tokenizer(), slots=model.slots, budget_bytes=10**9, threads=1)
