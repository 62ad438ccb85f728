"""What a way to answer chats is, and transformers' own two: `generate`, one by one and as a static batch.

Every way makes the same number of tokens, greedily: the end of a text does not end it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from transformers.generation.streamers import BaseStreamer

from bench.chat import Chat
from bench.errors import BenchError
from bench.run import Run
from workers.engines.text import Pieces, TextStream


class Way(Protocol):
    """One way."""

    name: ClassVar[str]

    def answer(self, chats: Sequence[Chat], new_tokens: int) -> Run:
        """Answer them all, submitted at once. Raises BenchError if a job did not make its tokens."""


class Generate:
    """`model.generate`, the first `most` jobs one after the other."""

    name: ClassVar[str] = "generate, one by one"

    def __init__(self, model: Any, tokenizer: Any, most: int | None = None) -> None:
        self._model, self._tokenizer, self._most = model, tokenizer, most

    def answer(self, chats: Sequence[Chat], new_tokens: int) -> Run:
        """See Way."""
        began, cpu = time.perf_counter(), time.process_time()
        done = [_generate(self._model, [chat], new_tokens, began) for chat in chats[: self._most]]
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        texts = [_text(self._tokenizer, rows[0]) for _, rows in done]
        return Run(seconds, [times for times, _ in done], texts, cpu_seconds, how="one by one")


class StaticBatch:
    """`model.generate` once, with all prompts padded on the left to the longest."""

    name: ClassVar[str] = "generate, static batch"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    def answer(self, chats: Sequence[Chat], new_tokens: int) -> Run:
        """See Way."""
        began, cpu = time.perf_counter(), time.process_time()
        times, rows = _generate(self._model, chats, new_tokens, began)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        return Run(seconds, [times for _ in chats], [_text(self._tokenizer, row) for row in rows], cpu_seconds)


class _Clock(BaseStreamer):
    """Notes when `generate` hands out tokens; what it hands out first is the prompt."""

    def __init__(self, began: float) -> None:
        self.seconds: list[float] = []
        self._began, self._prompt = began, True

    def put(self, value: Any) -> None:
        if not self._prompt:
            self.seconds.append(time.perf_counter() - self._began)
        self._prompt = False

    def end(self) -> None:
        pass


def _generate(model: Any, chats: Sequence[Chat], new_tokens: int, began: float) -> tuple[list[float], list[list[int]]]:
    """When each token came, and the new ids of each row."""
    longest = max(len(chat.prompt_ids) for chat in chats)
    padding = [longest - len(chat.prompt_ids) for chat in chats]
    ids = [[0] * pad + [*chat.prompt_ids] for pad, chat in zip(padding, chats, strict=True)]
    seen = [[0] * pad + [1] * (longest - pad) for pad in padding]
    clock = _Clock(began)
    made = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(seen, device=model.device),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        streamer=clock,
    )
    rows = made[:, longest:].tolist()
    if len(clock.seconds) != new_tokens or any(len(row) != new_tokens for row in rows):
        raise BenchError(f"generate made {len(clock.seconds)} of {new_tokens} tokens")
    return clock.seconds, rows


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The engine's own detokenizing, so that only the tokens can make texts differ."""
    stream = TextStream(Pieces(tokenizer.backend_tokenizer), ())
    return "".join(stream.feed(token)[0] for token in ids) + stream.finish()
