"""One job inside the loop: its tokens, how many of them are cached, its text, its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from hashlib import blake2b

from nowserving.errors import NowservingError
from workers.engines.attention import Segment
from workers.engines.cache import JobCache
from workers.engines.engine import Ended, FinishReason, Prepared, Sink
from workers.engines.model import LoadedModel
from workers.engines.sampling import Choice, Seen
from workers.engines.text import TextStream

log = logging.getLogger(__name__)

COLDEST = 1e-5
"""Below this temperature nothing but the likeliest token could be drawn."""
GREEDY = Choice(temperature=0.0, top_k=0, top_p=1.0, seed=0, index=0)


class Row:
    """Made on the caller's thread; all else is the loop's, but `canceled`, which anyone may set."""

    def __init__(self, prepared: Prepared, sink: Sink) -> None:
        prompt = prepared.prompt
        self.prepared, self.sink = prepared, sink
        self.job_id, self.tokens = prompt.job_id, prepared.tokens
        self.deadline = time.monotonic() + prompt.timeout_seconds
        self.canceled = False
        self.over = False
        self._prompt_tokens = len(prepared.prompt_ids)
        self.ids = [*prepared.prompt_ids, *prompt.made]
        self.cached = 0
        self.cache: JobCache | None = None
        self._begun = False
        self._text: TextStream | None = None
        parameters = prompt.parameters
        self._seed = _seed_of(self.job_id) if parameters.seed is None else parameters.seed
        self._seen = Seen(self.ids) if parameters.repetition_penalty != 1 else None
        self._greedy = parameters.temperature < COLDEST and self._seen is None

    @property
    def made(self) -> int:
        """Tokens generated, those of earlier attempts too."""
        return len(self.ids) - self._prompt_tokens

    @property
    def pending(self) -> int:
        """Tokens not yet cached: one for a row that decodes, more for one that prefills."""
        return len(self.ids) - self.cached

    @property
    def choice(self) -> Choice:
        """How the next token is to be picked."""
        if self._greedy:
            return GREEDY
        parameters = self.prepared.prompt.parameters
        temperature = parameters.temperature if parameters.temperature >= COLDEST else 0.0
        return Choice(
            temperature,
            parameters.top_k,
            parameters.top_p,
            self._seed,
            self.made,
            parameters.min_p,
            parameters.repetition_penalty,
            self._seen.ids if self._seen else None,
        )

    def replay(self, loaded: LoadedModel) -> None:
        """Take in silence, once, the tokens an earlier attempt has streamed; they may have ended the job already."""
        if self._text is not None:
            return
        prompt = self.prepared.prompt
        self._text = TextStream(loaded.pieces, prompt.parameters.stop)
        for count, token in enumerate(prompt.made, 1):
            if reason := self._take(token, count, loaded)[1]:
                del self.ids[self._prompt_tokens + count :]
                self.end(reason)
                return

    def begin(self, cache: JobCache) -> None:
        """Give it its cache; its prefill begins with the next step."""
        self.cache, self.cached = cache, 0
        if not self._begun:
            self._begun = True
            self._tell(self.sink.begun, self._prompt_tokens)

    def leave(self) -> None:
        """Give up its cache: it will prefill anew, with all that it has made."""
        self.cache, self.cached = None, 0

    def segment(self, tokens: int) -> Segment:
        """The next tokens to run."""
        assert self.cache is not None
        return Segment(self.cache, self.cached, self.ids[self.cached : self.cached + tokens])

    def progress(self) -> None:
        """Tell how much of it is cached, after a step that was not its prefill's last."""
        self._tell(self.sink.progress, self.cached, len(self.ids))

    def accept(self, token: int, loaded: LoadedModel) -> None:
        """Add the token just picked, stream it, and end if it was the last."""
        self.ids.append(token)
        if self._seen:
            self._seen.add(token)
        made = self.made
        text, reason = self._take(token, made, loaded)
        self._tell(self.sink.tokens, made - 1, (token,), text)
        if reason:
            self.end(reason)

    def fail(self, error: NowservingError) -> None:
        """End it with an error."""
        self.end(FinishReason.ERROR, error)

    def end(self, reason: FinishReason, error: NowservingError | None = None) -> None:
        """End it, once."""
        if self.over:
            return
        self.over = True
        self.leave()
        text = self._text.text if self._text else ""
        self._tell(self.sink.ended, Ended(reason, text, self._prompt_tokens, self.made, error))

    def _take(self, token: int, count: int, loaded: LoadedModel) -> tuple[str, FinishReason | None]:
        """The text that token number `count` releases, and how the job ends with it, if it does."""
        assert self._text is not None
        parameters = self.prepared.prompt.parameters
        if token in parameters.stop_token_ids or (token in loaded.stop_ids and not parameters.ignore_eos):
            return self._text.finish(), FinishReason.STOP
        text, stopped = self._text.feed(token)
        if stopped:
            return text, FinishReason.STOP
        if count < parameters.max_new_tokens:
            return text, None
        return text + self._text.finish(), FinishReason.LENGTH

    def _tell(self, call: Callable[..., None], *what: object) -> None:
        try:
            call(*what)
        except Exception:
            log.exception("the sink of %s failed", self.job_id)


def _seed_of(job_id: str) -> int:
    return int.from_bytes(blake2b(job_id.encode(), digest_size=8).digest(), "little") >> 1
