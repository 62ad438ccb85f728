"""One run of the engine bench: makes the ways for a model and a device, and lets each answer the same chats in turn."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from bench import model as models
from bench.bandwidth import Floor, measure_bandwidth, weights_bytes
from bench.bare import BareEngine, OpenAIServer
from bench.chat import Chat, make_chats
from bench.engine_table import Prompts, Round
from bench.errors import BenchError
from bench.machine import Watch
from bench.run import Run
from bench.ways import Generate, StaticBatch, Way
from bench.whole import WholeStack
from nowserving.job import MESSAGE_TOKENS, TEMPLATE_TOKENS

WAYS = ("alone", "static", "engine", "stack")
WARM_UP_TOKENS = 4
PROMPT_BYTES_A_TOKEN = 8
"""The gate counts a prompt by its bytes, before any tokenizer has seen it; so many suffice for the words used here."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and on what; `prompt` is the least and the most tokens of a prompt."""

    model: str
    device: str = "cpu"
    dtype: str = "auto"
    jobs: Sequence[int] = (1, 8, 32, 128)
    tokens: int = 64
    prompt: tuple[int, int] = (20, 60)
    ways: Sequence[str] = WAYS
    alone: int | None = None
    rounds: int = 3
    threads: int = 1
    openai: str | None = None
    openai_model: str | None = None

    @property
    def slots(self) -> int:
        """Of the engine: as many as there are jobs at most, so that none waits for another's end."""
        return max(self.jobs)

    @property
    def bound_tokens(self) -> int:
        """What the queue may take a job for."""
        return TEMPLATE_TOKENS + MESSAGE_TOKENS + self.prompt[1] * PROMPT_BYTES_A_TOKEN + self.tokens

    @property
    def kind(self) -> str:
        """What "auto" means here."""
        return self.dtype if self.dtype != "auto" else "float32" if self.device == "cpu" else "bfloat16"

    def entry(self, budget_bytes: int) -> str:
        """The model in a worker's catalog: a user's own entry, but for models that are made in code."""
        engine, source = "transformers", self.model
        if models.is_made(self.model):
            engine, source = "bench.model:engine", f"{self.model}@{budget_bytes}"
        return f"""\
engine = "{engine}"
source = "{source}"
slots = {self.slots}
device = "{self.device}"
dtype = "{self.kind}"
threads = {self.threads}
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """All rounds; `others_cores` is what others took of the machine, up to the end of each."""

    rounds: Sequence[Round]
    prompts: Prompts
    floor: Floor
    others_cores: Sequence[float]


def measure(plan: Plan) -> Measured:
    """Carry the plan out. Raises BenchError."""
    if plan.device.startswith("cuda") and not torch.cuda.is_available():
        raise BenchError(f"--device {plan.device}: torch finds no CUDA device here")
    torch.set_num_threads(plan.threads)
    with ExitStack() as parts:
        model, tokenizer = models.make(plan.model, plan.device, plan.kind)
        bandwidths = [measure_bandwidth(plan.device)]
        plain = models.twin(model)
        budget_bytes = models.cache_bytes(model, plan.slots * plan.bound_tokens)
        options = {"slots": plan.slots, "budget_bytes": budget_bytes, "threads": plan.threads}
        engine = models.engine_of(plan.model, model, tokenizer, **options)
        parts.callback(engine.close)
        engine.start()
        ways: list[Way] = []
        if "alone" in plan.ways:
            ways.append(Generate(plain, tokenizer, plan.alone))
        if "static" in plan.ways:
            ways.append(StaticBatch(plain, tokenizer))
        if "engine" in plan.ways:
            ways.append(BareEngine(engine))
        stacks = [WholeStack(plan.entry(budget_bytes))] if "stack" in plan.ways else []
        ways += [parts.enter_context(stack) for stack in stacks]
        if plan.openai is not None:
            ways.append(parts.enter_context(OpenAIServer(plan.openai, plan.openai_model, plan.slots)))
        asked = [
            {jobs: make_chats(engine, jobs, plan.prompt, plan.tokens, f"{number}/{jobs}") for jobs in plan.jobs}
            for number in range(plan.rounds)
        ]
        _warm_up(ways, asked[0])
        gc.collect()
        gc.freeze()  # as a worker does: in rounds of the ways in this process, a collection need not look at all this
        parts.callback(gc.unfreeze)
        watch = Watch(stacks)
        rounds, others_cores = [], []
        for number, chats in enumerate(asked):
            rounds.append({jobs: _answer(ways, chats[jobs], plan.tokens, number) for jobs in plan.jobs})
            others_cores.append(watch.others_cores())
            bandwidths.append(measure_bandwidth(plan.device))
        prompts = {jobs: [len(chat.prompt_ids) for chat in chats] for jobs, chats in asked[0].items()}
        return Measured(rounds, prompts, Floor(max(bandwidths), weights_bytes(plain), engine.cost), others_cores)


def _warm_up(ways: Sequence[Way], chats: Mapping[int, Sequence[Chat]]) -> None:
    """What a process or a device does once for each size of a batch is done before the clock runs."""
    for jobs, asked in chats.items():
        for way in ways:
            _say(f"warming up: {way.name}, {jobs} jobs")
            way.answer(asked[:1] if isinstance(way, Generate) else asked, WARM_UP_TOKENS)


def _answer(ways: Sequence[Way], chats: Sequence[Chat], new_tokens: int, number: int) -> dict[str, Run]:
    """One number of jobs by all ways, beginning with another in each round."""
    first = number % len(ways)
    runs = {}
    for way in (*ways[first:], *ways[:first]):
        runs[way.name] = way.answer(chats, new_tokens)
        _say(f"round {number + 1}: {way.name}, {len(chats)} jobs: {runs[way.name].tokens_per_second:.1f} tokens/s")
    return runs


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
