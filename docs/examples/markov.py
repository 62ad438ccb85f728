"""An engine of one's own: continues a text with words that follow one another in the book that `source` names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from nowserving.errors import EngineError, InvalidInputError
from workers.engines.engine import Prompt
from workers.engines.simple import SimpleEngine


class Markov(SimpleEngine):
    resumes = True

    def load(self) -> None:
        try:
            book = Path(self.model.source).read_text().split()
        except OSError as error:
            raise EngineError(f"the book {self.model.source!r} cannot be read: {error.strerror}") from None
        self.words = sorted(set(book))
        self.ids = {word: token for token, word in enumerate(self.words)}
        self.following: list[list[int]] = [[] for _ in self.words]
        for place, word in enumerate(book[:-1]):
            self.following[self.ids[word]].append(self.ids[book[place + 1]])
            self.progress("load", place / len(book))

    def count(self, prompt: Prompt) -> int:
        if prompt.input.prompt is None:
            raise InvalidInputError("this model continues a prompt, and holds no chat")
        return len(prompt.input.prompt.split())

    def generate(self, prompt: Prompt) -> Iterator[tuple[int, str]]:
        last = prompt.made[-1] if prompt.made else self.ids.get((prompt.input.prompt or "").split()[-1], 0)
        seed, index = prompt.parameters.seed or 0, len(prompt.made)
        while self.following[last]:
            last, index = Random(f"{seed} {index}").choice(self.following[last]), index + 1
            yield last, self.text_of(last)

    def text_of(self, token: int) -> str:
        return f" {self.words[token]}"
