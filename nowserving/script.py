"""The Lua scripts: one a verb, each sent with what it uses of what they share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from nowserving import keys

UNDER_A_CLAIM = ("begin", "progress", "append", "finish", "release", "settle")
WRITES = ("enqueue", "take", *UNDER_A_CLAIM, "cancel", "renew", "leave", "reap", "reconcile", "redeliver")
READS = ("look", "positions", "list", "queues", "workers", "read", "mended", "deliveries", "letters", "tally")
SHARED = ("guard", "prelude", "place", "report", "story", "life")
"""What scripts share, in the order in which it stands before them: definitions alone, each at the start of a line."""
SCRIPTS = WRITES + READS
_DEFINITION = re.compile(r"(?:local )?function [\w.]+|local \w+(?:, \w+)*")


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the name by which Redis remembers it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Name it as Redis does."""
        return cls(text, hashlib.sha1(text.encode()).hexdigest())


def load_scripts() -> Mapping[str, Script]:
    """All of them, by name."""
    return {name: Script.of(source(name)) for name in SCRIPTS}


def source(script: str) -> str:
    """A script's Lua text, with the key names and what it uses of SHARED before it.

    Redis makes a script's functions anew at each call: all that is shared would cost an enqueue a fifth of its time.
    """
    text, shared = _read_lua(script), _shared()
    words, used = _words(text), list[_Definition]()
    while more := [one for one in shared if one not in used and one.names & words]:
        used += more
        words = words.union(*(one.words for one in more))
    return keys.lua_constants() + "".join(one.text for one in shared if one in used) + text


@dataclass(frozen=True, slots=True, eq=False)
class _Definition:
    """One of what is shared: the names that it defines, all its words, and its text."""

    names: Set[str]
    words: Set[str]
    text: str


@cache
def _shared() -> Sequence[_Definition]:
    texts = re.split(r"^(?=local |function )", "".join(map(_read_lua, SHARED)), flags=re.MULTILINE)
    found = [(_DEFINITION.match(text), text) for text in texts]
    return [_Definition(_words(start[0]), _words(text), text) for start, text in found if start]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text)) - {"local", "function"}


def _read_lua(name: str) -> str:
    return (files("nowserving") / "lua" / f"{name}.lua").read_text("utf-8")
