"""From token ids to text that can be shown: whole characters, and nothing that may yet be part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class StopMatcher:
    """Finds the stop string that ends first, of several the longest, however the text is cut into pieces.

    Text is held back while it could be the beginning of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take a piece; give the text that is certain now, and whether a stop string was met: then nothing follows."""
        text = self._held + text
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self._held = ""
            return text[: min(ends)[1]], True
        certain = self._certain(text)
        self._held = text[certain:]
        return text[:certain], False

    def flush(self) -> str:
        """Give what is held back: no more text comes."""
        held, self._held = self._held, ""
        return held

    def _certain(self, text: str) -> int:
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)


class TextStream:
    """The text of one job. What each token releases depends on the tokens so far alone, so a replay repeats it."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decode = DecodeStream(skip_special_tokens=True)
        self._matcher = StopMatcher(stops)
        self._released: list[str] = []

    @property
    def text(self) -> str:
        """All that was released."""
        return "".join(self._released)

    def feed(self, token: int) -> tuple[str, bool]:
        """Take a token; give the text it releases and whether a stop string was met."""
        text, stopped = self._matcher.feed(self._decode.step(self._tokenizer, token) or "")
        self._released.append(text)
        return text, stopped

    def finish(self) -> str:
        """Give what was held back, since no token follows; bytes that are no whole character never come."""
        text = self._matcher.flush()
        self._released.append(text)
        return text
