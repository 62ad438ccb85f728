"""The openai engine on a scripted server, and what it made of a job."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nowserving.catalog import Model, parse_catalog
from nowserving.job import Input, Parameters
from tests.child_process import ROOT
from workers.engines.engine import Ended, Prompt
from workers.engines.openai import OpenAIEngine
from workers.engines.openai_server import Rhythm
from workers.engines.openai_stream import Patience

QUICK = Rhythm(look=0.05, answer=0.5, hang=1.0, quick=1.0, deaths=3, pause=0.02, longest_pause=0.1, busy=0.2)
IMPATIENT = Patience(first=5.0, stall=0.5, busy=2.0, usage=0.3)
SCRIPTED = [sys.executable, "-m", "tests.scripted_server", "{port}"]


class Heard:
    """A sink that keeps all."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.ends: list[Ended] = []
        self.first, self.over = threading.Event(), threading.Event()

    def begun(self, prompt_tokens: int) -> None:
        self.begins.append(prompt_tokens)

    def progress(self, done: int, total: int) -> None:
        raise AssertionError("a server does not say how far it has read")

    def tokens(self, index: int, ids: Sequence[int], text: str) -> None:
        self.ids.extend(ids)
        self.texts.append(text)
        self.first.set()

    def ended(self, end: Ended) -> None:
        self.ends.append(end)
        self.over.set()

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def end(self, seconds: float = 10.0) -> Ended:
        """The one end."""
        assert self.over.wait(seconds)
        assert len(self.ends) == 1
        return self.ends[0]


def model_of(**table: object) -> Model:
    """A model of the openai engine with these keys."""
    return parse_catalog({"models": {"m": {"engine": "openai", **table}}}, "models.toml")["m"]


def child(quirks: str = "{}", **table: object) -> Model:
    """A model whose scripted server is a child process."""
    environment = {"PYTHONPATH": str(ROOT), "QUIRKS": quirks}
    return model_of(command=SCRIPTED, environment=environment, **table)


@contextmanager
def running(model: Model, worker: Mapping[str, str] | None = None, **options: Any) -> Iterator[OpenAIEngine]:
    """An engine, started and in the end closed."""
    engine = OpenAIEngine(model, worker or {}, **{"rhythm": QUICK, "patience": IMPATIENT, **options})
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def prompt_of(
    text: str, made: Sequence[int] = (), made_text: str = "", timeout_seconds: float = 30.0, **more: Any
) -> Prompt:
    """A job of a bare prompt, or of one message with `chat=True`; the rest are its parameters."""
    chat = more.pop("chat", False)
    job_input = Input.model_validate({"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text})
    parameters = Parameters(**{"max_new_tokens": 20, **more})
    return Prompt("job_" + text.replace(" ", "_"), job_input, parameters, timeout_seconds, tuple(made), made_text)


def submit(engine: OpenAIEngine, prompt: Prompt) -> Heard:
    """Hand a job over."""
    heard = Heard()
    engine.submit(engine.prepare(prompt), heard)
    return heard


def words(first: int, last: int) -> str:
    """What the scripted server says."""
    return "".join(f" w{number}" for number in range(first, last))
