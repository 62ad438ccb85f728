"""What became of one job: from a server's chunks to tokens with an index, text without stop strings, and counts."""

from __future__ import annotations

from dataclasses import replace

from nowserving.errors import NowservingError
from workers.engines.engine import UNKNOWN, Ended, FinishReason, Prompt, Sink
from workers.engines.openai_chunk import Chunk, Usage
from workers.engines.stop import StopMatcher

SLACK_TOKENS = 8
"""Tokens over the job's limit that are put down to how a server cuts its text; one that sends more does not stop."""
TOKEN_CHARACTERS = 512
"""So much text a token is still believed, whatever a server's counts say."""


class Transcript:
    """Pure but for its sink. `finish` is set once no more text is to come; counts may still follow.

    A server that says no ids makes one token of each piece of text, until its own counts set that right.
    """

    def __init__(self, prompt: Prompt, sink: Sink) -> None:
        self._sink = sink
        self._most = prompt.parameters.max_new_tokens
        self._matcher = StopMatcher(prompt.parameters.stop)
        self._texts = [prompt.made_text]
        self._index = self._before = len(prompt.made)
        self._prompt_tokens: int | None = None
        self._usage: Usage | None = None
        self._overrun = False
        self._heard = self._characters = 0
        """What the server made in this attempt: tokens, by its ids or counts or at least one a piece; and text."""
        self.new = 0
        """Tokens of this attempt that were passed on, never more than `left`."""
        self.finish: FinishReason | None = None

    @property
    def left(self) -> int:
        """Tokens that may still be made by this attempt, from its beginning."""
        return self._most - self._before

    @property
    def prompt_tokens(self) -> int:
        """The job's own prompt; 0 while nobody has counted it."""
        if self._prompt_tokens is not None:
            return self._prompt_tokens
        return self._usage.prompt_tokens if self._usage else 0

    def resume(self, prompt_tokens: int, made_tokens: int) -> None:
        """The server has counted the prompt, and the text that was made before."""
        self._prompt_tokens, self._before = prompt_tokens, made_tokens

    def take(self, chunk: Chunk) -> None:
        """Take in what streamed back."""
        self._usage = chunk.usage or self._usage
        if self.finish is not None:
            # The server knows nothing of our stop: what it counts from now on is not the job's.
            self._overrun |= bool(chunk.text)
            return
        ids = self._ids(chunk)
        self._characters += len(chunk.text)
        self._heard += max(len(ids), 1 if chunk.text or chunk.thought else 0)
        if chunk.usage:
            self._heard = max(self._heard, chunk.usage.completion_tokens)
        text, stopped = self._matcher.feed(chunk.text)
        self._tell(ids[: max(0, self.left - self.new)], text)
        most = self.left + SLACK_TOKENS
        if self._heard > most or self._characters > most * TOKEN_CHARACTERS:
            self.finish, self._overrun = FinishReason.LENGTH, True
        elif stopped:
            self.finish = FinishReason.STOP
        elif chunk.finish:
            self.finish = FinishReason.LENGTH if chunk.finish == "length" else FinishReason.STOP

    def close(self) -> Ended:
        """No more comes: release what was held back, and set the counts right."""
        if self.finish is None:
            self.finish = FinishReason.LENGTH if self.new >= self.left else FinishReason.STOP
        total = self._completion_tokens
        self._tell((UNKNOWN,) * max(0, total - self._index), self._matcher.flush())
        return replace(self.end(self.finish), completion_tokens=total)

    def end(self, reason: FinishReason, error: NowservingError | None = None) -> Ended:
        """The end as it stands now; what is held back stays so."""
        return Ended(reason, "".join(self._texts), self.prompt_tokens, self._completion_tokens, error)

    @property
    def _completion_tokens(self) -> int:
        new = self._usage.completion_tokens if self._usage and not self._overrun else self.new
        return min(self._before + new, self._most)

    def _ids(self, chunk: Chunk) -> tuple[int, ...]:
        if chunk.ids is not None:
            return chunk.ids
        if chunk.usage:
            return (UNKNOWN,) * max(0, min(chunk.usage.completion_tokens, self.left) - self.new)
        return (UNKNOWN,) if chunk.text or chunk.thought else ()

    def _tell(self, ids: tuple[int, ...], text: str) -> None:
        if ids or text:
            self._sink.tokens(self._index, ids, text)
            self._index += len(ids)
            self.new += len(ids)
            self._texts.append(text)
