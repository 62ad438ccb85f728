"""The chats that every way answers: short questions of varied length, the same for all, and new in every round."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nowserving.job import Input, Message, Parameters
from workers.engines.engine import Engine, Prompt

WORDS = (
    "water bread river engine window garden winter letter music paper stone bridge cloud market doctor forest island "
    "pencil silver summer teacher village planet shadow morning orange kitchen history number money tiger ocean"
)
TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Chat:
    """One user's message, and the ids of the whole prompt as the model's chat template makes it."""

    content: str
    prompt_ids: tuple[int, ...]

    def prompt(self, name: str, new_tokens: int, ignore_eos: bool = True) -> Prompt:
        """As an engine takes it."""
        return make_prompt(self.content, name, new_tokens, ignore_eos)


def make_prompt(content: str, name: str, new_tokens: int, ignore_eos: bool = True) -> Prompt:
    """One user's message as a job."""
    messages = Input(messages=[Message(role="user", content=content)])
    parameters = Parameters(max_new_tokens=new_tokens, ignore_eos=ignore_eos)
    return Prompt(name, messages, parameters, TIMEOUT_SECONDS)


def make_chats(engine: Engine, jobs: int, length: tuple[int, int], new_tokens: int, seed: str) -> Sequence[Chat]:
    """So many chats, with prompts of the `length` from the least to the most tokens, evenly spread, in random order.

    The chat template's own tokens count. A template that alone has more than that gives its own tokens and a word.
    """
    chance = random.Random(seed)
    fewest, most = length
    wanted = [round(fewest + (most - fewest) * (job + 0.5) / jobs) for job in range(jobs)]
    chance.shuffle(wanted)

    def ids(content: str) -> tuple[int, ...]:
        return engine.prepare(make_prompt(content, "chat", new_tokens)).prompt_ids

    return [_make_chat(ids, tokens, chance) for tokens in wanted]


def _make_chat(ids: Callable[[str], tuple[int, ...]], tokens: int, chance: random.Random) -> Chat:
    known = WORDS.split()
    words = [chance.choice(known)]
    while len(prompt_ids := ids(" ".join(words))) < tokens:
        # A word is a token or more: steps of a part of what is missing come close without asking after each.
        missing = max(1, (tokens - len(prompt_ids)) // 8)
        words += chance.choices(known, k=missing)
    return Chat(" ".join(words), prompt_ids)
