"""Makes the engine that the catalog names."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from nowserving.catalog import Model
from nowserving.errors import EngineError
from workers.engines.engine import Engine, Progress


def make_engine(
    model: Model,
    cache_dir: Path,
    progress: Progress = lambda phase, fraction: None,
    builtin_dir: Path | None = None,
) -> Engine:
    """Make the engine of `model`, not yet started. A class of the user's own is called with `model` alone; if what it
    makes has an attribute `progress`, that becomes the function given here.

    Raises EngineError if there is no such engine, or its source makes no sense.
    """
    if model.engine == "transformers":
        with _importing():
            from workers.engines.pretrained import Recipe
            from workers.engines.transformers import TransformersEngine

        recipe = Recipe(
            model.source,
            device=model.device,
            dtype=model.dtype,
            attention=model.attention,
            quantization=model.quantization,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            cache_dir=cache_dir,
            builtin_dir=builtin_dir,
        )
        return TransformersEngine(
            recipe,
            slots=model.slots,
            memory_fraction=model.memory_fraction,
            threads=model.threads,
            progress=progress,
        )
    if model.engine == "openai":
        from workers.engines.openai import OpenAIEngine

        return OpenAIEngine(model)
    if model.engine == "noop":
        from workers.engines.noop import NoopEngine, parse_source

        return NoopEngine(model.slots, **parse_source(model.source))
    module_name, colon, class_name = model.engine.partition(":")
    if not colon:
        allowed = '"transformers", "openai", "noop" or "package.module:Class"'
        raise EngineError(f"there is no engine {model.engine!r}: use {allowed}")
    try:
        with _importing():
            made = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise EngineError(f"engine {model.engine!r} cannot be imported (PYTHONPATH?): {error}") from error
    engine = made(model)
    if hasattr(engine, "progress"):
        engine.progress = progress
    return cast(Engine, engine)


@contextmanager
def _importing() -> Iterator[None]:
    """While it is entered nothing is collected: what is imported stays, and to look through it again and again takes a
    quarter of the seconds that torch and transformers need.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    try:
        yield
    finally:
        if not gc.get_threshold()[0]:  # what an engine's module has set stays
            gc.set_threshold(*thresholds)
