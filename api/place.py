"""A reader's place in a job's story: the event that came last, and how much text came with the events up to it.

By the counts a reader goes on without loss or repeat where a story has been collapsed to one token event since. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nowserving.event import Event


@dataclass(frozen=True, slots=True)
class Place:
    """After one event of a job's stream, "0" being before the first; `str` of it is the id that readers get.

    `tokens` and `characters` (code points) are those seen since the text began, or began anew.
    """

    event_id: str = "0"
    tokens: int = 0
    characters: int = 0

    def __str__(self) -> str:
        return f"{self.event_id}.{self.tokens}.{self.characters}"

    def unseen(self, event: Event) -> Event | None:
        """What a later event brings that is new from here, or None if nothing is."""
        if not self._overlaps(event):
            return event
        ids = event.data["ids"][self.tokens :]
        text = event.data["text"][self.characters :]
        if not ids and not text:
            return None
        return replace(event, data={**event.data, "index": self.tokens, "ids": ids, "text": text})

    def after(self, event: Event) -> Place:
        """The place after a later event."""
        if event.type == "restarted":
            return Place(event.id)
        if event.type != "token":
            return replace(self, event_id=event.id)
        tokens, characters = len(event.data["ids"]), len(event.data["text"])
        if self._overlaps(event):
            return Place(event.id, max(self.tokens, tokens), max(self.characters, characters))
        return Place(event.id, event.data["index"] + tokens, self.characters + characters)

    def _overlaps(self, event: Event) -> bool:
        """Whether it is collapsed, and so begins with the text, before what was seen already."""
        return event.type == "token" and bool(event.data["index"] < self.tokens)
