"""What a job must make, found without the engine: by plain `generate`, one text after the other, decoded at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from transformers import LogitsProcessor, LogitsProcessorList

from nowserving.job import Parameters
from tests.tiny import Collected
from workers.engines.engine import FinishReason, Prepared, Prompt
from workers.engines.row import Row
from workers.engines.sampling import pick
from workers.engines.text import BROKEN

NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Truth:
    """All tokens of a job, those of earlier attempts too, and how it ends."""

    ids: tuple[int, ...]
    text: str
    reason: FinishReason


class Oracle:
    """Asks a model that no engine has taken over; `tokenizer` is transformers' own."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = cast(Tokenizer, tokenizer.backend_tokenizer)
        eos = model.generation_config.eos_token_id
        self._eos: set[int] = set(eos) if isinstance(eos, list) else {eos}

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a bare prompt."""
        return tuple(self._tokenizer.encode(text).ids)

    def generate(self, prompt: Prompt, prompt_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens, were there no stop strings. Nothing but the draw of a sampled token is the engine's."""
        ids, parameters = torch.tensor([prompt_ids]), prompt.parameters
        options: dict[str, Any] = {"max_new_tokens": parameters.max_new_tokens, "do_sample": False}
        options["eos_token_id"] = sorted(self._stops(parameters)) or [NO_TOKEN]
        if parameters.temperature > 0:
            options["logits_processor"] = LogitsProcessorList([_Draw(Prepared(prompt, tuple(prompt_ids), 0))])
        else:
            options["repetition_penalty"] = parameters.repetition_penalty
        output = self._model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return tuple(output[0, ids.shape[1] :].tolist())

    def _stops(self, parameters: Parameters) -> set[int]:
        return (set() if parameters.ignore_eos else self._eos) | set(parameters.stop_token_ids)

    def tell(self, ids: Sequence[int], parameters: Parameters, stops: Sequence[str]) -> Truth:
        """Where these tokens are cut off by the stop string that ends first, of several the longest."""
        ended = ids[-1] in self._stops(parameters)
        shown = len(ids) - ended  # what ends a text has none
        for count in range(1, shown + 1):
            text = self.decode(ids[:count])
            met = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
            if met:
                return Truth(tuple(ids[:count]), text[: min(met)[1]], FinishReason.STOP)
        return Truth(tuple(ids), self.decode(ids[:shown]), FinishReason.STOP if ended else FinishReason.LENGTH)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of so many tokens as far as its characters are whole."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).rstrip(BROKEN)


class _Draw(LogitsProcessor):
    """Leaves `generate` but one token to choose: the one that the job's seed draws from these logits."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        made = tuple(input_ids[0, len(self._prepared.prompt_ids) :].tolist())
        prompt = replace(self._prepared.prompt, made=made)
        token = pick(scores.float(), [Row(replace(self._prepared, prompt=prompt), Collected()).choice])[0]
        assert token is not None
        return torch.full_like(scores, float("-inf")).index_fill_(1, torch.tensor([token]), 0.0)
