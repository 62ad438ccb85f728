"""The default engine: any decoder of transformers whose attention goes through its attention interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Self

import torch

from nowserving.errors import EngineError, InvalidInputError, TooLargeError
from workers.engines.budget import budget_bytes, most_step_bytes
from workers.engines.engine import Capacity, Health, Prepared, Progress, Prompt, Sink
from workers.engines.graph import make_decoder
from workers.engines.loop import Loop
from workers.engines.model import LoadedModel, adopt_model
from workers.engines.pretrained import Recipe, attend_by, load_model
from workers.engines.row import Row
from workers.engines.warmup import warm_up

SIZES_KEPT = 1 << 14


class TransformersEngine:
    """Continuous batching in one thread, which also loads the model.

    In float32 a text is the same alone, batched, joined at any time or resumed; below, rounding may tell them apart.
    """

    resumes = True

    def __init__(
        self,
        recipe: Recipe,
        *,
        slots: int,
        memory_fraction: float,
        threads: int | None = None,
        progress: Progress = lambda phase, fraction: None,
    ) -> None:
        """`threads` are torch's on the CPU, None its own choice. Raises EngineError for an unknown `attention`."""
        self._load: Callable[[], LoadedModel] = lambda: load_model(recipe, progress)
        self._attend_by = recipe.attention
        self._slots, self._memory_fraction, self._threads = slots, memory_fraction, threads
        self._progress = progress
        self._warms_up = True
        self._budget_bytes: int | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: Loop | None = None
        self._loaded: LoadedModel | None = None
        self._capacity: Capacity | None = None
        self._size_bytes = lru_cache(SIZES_KEPT)(self._job_bytes)
        """The gate asks for the same sizes thousands of times before each take."""

    @classmethod
    def of(cls, model: Any, tokenizer: Any, *, slots: int, budget_bytes: int, threads: int | None = None) -> Self:
        """An engine of a model already in memory, with a budget given in bytes. The model is its own from then on.

        It does not warm up.
        """
        engine = cls(Recipe(""), slots=slots, memory_fraction=1.0, threads=threads)
        engine._warms_up = False
        engine._load = lambda: adopt_model(model, tokenizer)
        engine._budget_bytes = budget_bytes
        return engine

    def start(self) -> Capacity:
        """See Engine."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        if self._warms_up:
            try:
                warm_up(self, self._ready_model().vocabulary)
            except BaseException:
                self.close()
                raise
        return self.capacity()

    def close(self) -> None:
        """See Engine."""
        if self._loop:
            self._loop.close()
        if self._thread:
            self._thread.join()

    def capacity(self) -> Capacity:
        """See Engine. Raises EngineError before it is started."""
        if self._capacity is None:
            raise EngineError("the engine is not started")
        return self._capacity

    def cost(self, tokens: Sequence[int]) -> int:
        """See Engine. The last token a job makes is never cached."""
        return sum(map(self._size_bytes, tokens))

    def prepare(self, prompt: Prompt) -> Prepared:
        """See Engine."""
        loaded = self._ready_model()
        ids = encode(loaded, prompt)
        if not ids:
            raise InvalidInputError("the prompt has no tokens")
        if strange := next((token for token in (*ids, *prompt.made) if not 0 <= token < loaded.vocabulary), None):
            raise InvalidInputError(f"token {strange} is not among the model's {loaded.vocabulary}")
        if strange := next((token for token in prompt.parameters.stop_token_ids if token >= loaded.vocabulary), None):
            raise InvalidInputError(f"stop token {strange} is not among the model's {loaded.vocabulary}")
        new = prompt.parameters.max_new_tokens
        prepared = Prepared(prompt, ids, len(ids) + new)
        needs = f"it needs {prepared.tokens} tokens ({len(ids)} prompt + {new} new)"
        if prepared.tokens > loaded.context_tokens:
            raise TooLargeError(f"{needs}, the context has {loaded.context_tokens}")
        available, cost = self.capacity().budget_bytes, self.cost([prepared.tokens])
        if cost > available:
            raise TooLargeError(f"{needs}, which take {cost} bytes; {available} are available")
        return prepared

    def submit(self, prepared: Prepared, sink: Sink) -> None:
        """See Engine."""
        if self._loop is None:
            raise EngineError("the engine is not started")
        self._loop.submit(Row(prepared, sink))

    def cancel(self, job_id: str) -> None:
        """See Engine."""
        if self._loop:
            self._loop.cancel(job_id)

    def health(self) -> Health:
        """See Engine."""
        alive = self._thread is not None and self._thread.is_alive()
        reason = (self._loop and self._loop.over) or ("" if alive else "it is not started")
        return Health(alive and not reason, self._loop.steps if self._loop else 0, reason)

    def _job_bytes(self, tokens: int) -> int:
        return self._ready_model().layout.size_bytes(max(1, tokens - 1))

    def _ready_model(self) -> LoadedModel:
        if self._loaded is None:
            raise EngineError("the engine is not started")
        return self._loaded

    def _run(self) -> None:
        try:
            with attend_by(self._attend_by):
                loop = self._make_loop()
                self._ready.set()
                loop.run()
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    def _make_loop(self) -> Loop:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        loaded = self._load()
        if self._warms_up:
            self._progress("warm-up", None)
        decoder = make_decoder(loaded, self._slots) if self._attend_by == "auto" else None
        step = most_step_bytes(loaded, self._slots) + (decoder.nbytes if decoder else 0)
        budget = self._budget_bytes or budget_bytes(loaded, self._memory_fraction, step)
        self._loaded, self._loop = loaded, Loop(loaded, self._slots, budget, decoder)
        self._capacity = Capacity(self._slots, loaded.context_tokens, budget, step)
        return self._loop


def encode(loaded: LoadedModel, prompt: Prompt) -> tuple[int, ...]:
    """Token ids of a prompt as it is, or of messages through the model's chat template. Raises InvalidInputError."""
    text, bare = prompt.input.prompt, prompt.input.prompt is not None
    if text is None:
        messages = [message.model_dump() for message in prompt.input.messages or []]
        try:
            text = loaded.template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise InvalidInputError(f"the chat template refuses these messages: {error}") from None
    try:
        # Not `encode`: it would keep every other thread of the worker waiting, a second for a megabyte.
        return tuple(loaded.tokenizer.encode_batch_fast([text], add_special_tokens=bare)[0].ids)
    except Exception as error:
        raise InvalidInputError(f"the prompt cannot be tokenized: {error}") from None
