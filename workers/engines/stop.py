"""Finds stop strings in a text that comes in pieces, at a cost that neither their number nor their length changes."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the stop string that ends first, of several the longest, however the text is cut into pieces.

    Text is held back while it could be the beginning of a stop string. It is an automaton (Aho and Corasick, 1975): a
    state is the longest end of the text that is the beginning of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._shorter = [0]
        """The longest shorter end of a state's text that is a state, too."""
        self._met = [0]
        """The length of the longest stop string that ends in a state; 0: none does."""
        for stop in stops:
            self._add(stop)
        self._link()
        self._held = ""
        self._state = 0

    def feed(self, text: str) -> tuple[str, bool]:
        """Take a piece; give the text that is certain now, and whether a stop string was met: then nothing follows."""
        if len(self._next) == 1:
            return text, False  # no stop strings, as with most jobs
        whole = self._held + text
        for end, letter in enumerate(text, len(self._held) + 1):
            self._state = self._step(self._state, letter)
            if met := self._met[self._state]:
                self._held, self._state = "", 0
                return whole[: end - met], True
        certain = len(whole) - self._depth[self._state]
        self._held = whole[certain:]
        return whole[:certain], False

    def flush(self) -> str:
        """Give what is held back: no more text comes."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _add(self, stop: str) -> None:
        state = 0
        for letter in stop:
            following = self._next[state].setdefault(letter, len(self._next))
            if following == len(self._next):
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._shorter.append(0)
                self._met.append(0)
            state = following
        self._met[state] = len(stop)

    def _link(self) -> None:
        states = [0]
        for state in states:  # it grows on the way: shorter ones come first, and are linked already
            states += self._next[state].values()
            for letter, following in self._next[state].items():
                shorter = self._step(self._shorter[state], letter) if state else 0
                self._shorter[following] = shorter
                self._met[following] = self._met[following] or self._met[shorter]

    def _step(self, state: int, letter: str) -> int:
        while state and letter not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(letter, 0)
