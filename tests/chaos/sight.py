"""What one reader has seen of a job's events, over all its connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nowserving.event import is_terminal


@dataclass
class Sight:
    """Tokens must come each once and in order, whatever connection brings them; one terminal event, and it is last."""

    tokens: int = 0
    text: str = ""
    repeated: int = 0
    missing: int = 0
    terminal: int = 0
    after_end: int = 0
    connections: int = 0

    def see(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take in one event."""
        self.after_end += self.terminal > 0
        self.terminal += is_terminal(kind)
        if kind == "restarted":
            self.tokens, self.text = 0, ""
        elif kind == "token":
            index, count = int(data["index"]), len(data["ids"])
            self.repeated += min(count, max(0, self.tokens - index))
            self.missing += max(0, index - self.tokens)
            self.tokens = max(self.tokens, index + count)
            self.text += data["text"]

    def wrong(self, text: str) -> str:
        """What is wrong with it if the job's text is this; '' if nothing is."""
        if self.repeated or self.missing or self.terminal != 1 or self.after_end or self.text != text:
            return f"{self} where the text is {text!r}"
        return ""
