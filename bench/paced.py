"""The default engine at a card's pace without a card: all of it is real but the device, for whose time a step waits.

What the rest of a worker and a stack take beside an engine shows here on any machine. It is a simulation: of a card's
speed it tells nothing that was not put in.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from workers.engines.attention import Attention, PackedAttention, Prompts, Segment
from workers.engines.decode import DecodeTable
from workers.engines.forward import forward
from workers.engines.loop import Loop
from workers.engines.model import LoadedModel
from workers.engines.transformers import TransformersEngine

STEP_SECONDS = 0.0059
SECONDS_A_ROW = 0.000018
"""By what decoding took on an NVIDIA H200 with random-8b in bfloat16, where 6.0 ms a step for one job, and 9.8 for 128,
have the engine's own share in them, some 1.7 ms for 128 (bench/results/nvidia-h200-random-8b.md)."""
SECONDS_A_PROMPT_TOKEN = 0.00003
"""Not measured: 16 GFLOP at 530 TFLOP/s."""
LAUNCHED_TOKENS = 2
"""Of each prompt, for which all that a step launches runs: as often as for all tokens, and in no time of its own."""
VARIETY = 64


class PacedDecoder:
    """See Decoder. Steps that only decode launch nothing; others launch the model's parts, one by one."""

    replays = True

    def __init__(self, loaded: LoadedModel, slots: int) -> None:
        self._loaded = loaded
        self._table = DecodeTable(loaded.layout, slots)
        self._logits = torch.randn(slots + VARIETY, loaded.vocabulary, generator=torch.Generator().manual_seed(0))
        self._steps = 0

    def forward(self, segments: Sequence[Segment], wanted: Sequence[bool]) -> torch.Tensor:
        """See Decoder."""
        began = time.perf_counter()
        decoding = [segment for segment in segments if len(segment.ids) == 1]
        prompts = [segment for segment in segments if len(segment.ids) > 1]
        launched = [Segment(prompt.cache, prompt.start, prompt.ids[:LAUNCHED_TOKENS]) for prompt in prompts]
        self._table.set(decoding)
        prompt_tokens = sum(len(segment.ids) for segment in prompts)
        if launched:
            forward(self._loaded.model, launched, [True] * len(launched), self._loaded.device, _attention(launched))
        seconds = STEP_SECONDS + SECONDS_A_ROW * len(segments) + SECONDS_A_PROMPT_TOKEN * prompt_tokens
        time.sleep(max(0.0, began + seconds - time.perf_counter()))
        self._steps += 1
        first = self._steps % VARIETY
        return self._logits[first : first + sum(wanted)]


def _attention(segments: Sequence[Segment]) -> Attention:
    """As on a card, where launches are what a short prompt costs."""
    attention = PackedAttention(segments)
    if len(segments) > 1 and all(segment.start == 0 for segment in segments):
        attention._prompts = Prompts(segments, set(segments), segments[0].cache.memory.device)
    return attention


class PacedEngine(TransformersEngine):
    """Of a model whose layers are as many as a card's would have, and so small that a CPU runs them at once."""

    def _make_loop(self) -> Loop:
        loop = super()._make_loop()
        loop._decoder = PacedDecoder(self._ready_model(), self._slots)  # type: ignore[assignment]
        return loop
