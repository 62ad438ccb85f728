"""What one event of a server's stream says. Servers differ, so everything is checked and nothing is expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nowserving.errors import EngineError, InvalidInputError, NowservingError, TooLargeError

DONE = "[DONE]"
WORDS_CHARACTERS = 500
"""As much of a server's own words as goes into an error."""
_TOO_LARGE = ("context length", "context_length", "context size", "context_size", "maximum context", "max_model_len")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counts them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """`text` may be empty; `ids` is None where the server does not say them; `finish` is the server's own word."""

    text: str = ""
    ids: tuple[int, ...] | None = None
    finish: str | None = None
    usage: Usage | None = None
    thought: bool = False
    """Whether it is a token of what the server sets apart as reasoning: it has no text for us."""


def parse_chunk(data: str) -> Chunk:
    """Read the data of one event (not DONE). Raises EngineError, or InvalidInputError if the server blames the job."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise EngineError(f"the server sent what is no JSON: {bounded(data)}") from None
    if not isinstance(document, dict):
        raise EngineError(f"the server sent what is no chunk: {bounded(data)}")
    if document.get("error"):
        raise _error(document["error"])
    return read_answer(document)


def read_answer(document: Mapping[str, Any]) -> Chunk:
    """Read a chunk, or the whole answer of a request without a stream. Raises EngineError if it is neither."""
    choices = document.get("choices")
    usage = _usage(document.get("usage"))
    if not choices:
        return Chunk(usage=usage)
    choice = choices[0] if isinstance(choices, list) else None
    if not isinstance(choice, dict):
        raise EngineError(f"the server sent what is no choice: {bounded(repr(choices))}")
    inner = choice.get("delta") or choice.get("message") or choice
    if not isinstance(inner, dict):
        raise EngineError(f"the server sent what is no delta: {bounded(repr(inner))}")
    text = inner.get("content") if inner is not choice else choice.get("text")
    finish = choice.get("finish_reason")
    if not isinstance(text, str | None) or not isinstance(finish, str | None):
        raise EngineError(f"the server sent what is no text: {bounded(repr(choice))}")
    thought = bool(inner.get("reasoning_content") or inner.get("reasoning"))
    return Chunk(_whole(text or ""), _ids(choice.get("token_ids")), finish, usage, thought)


def refusal(status: int, body: str) -> NowservingError:
    """The error that an answer of this HTTP status stands for: InvalidInputError where the job is to blame."""
    words = f"the server refuses it ({status}): {_words(body)}"
    if status in (401, 403, 408, 429) or not 400 <= status < 500:
        return EngineError(words)
    return _blame(words)


def bounded(words: str) -> str:
    """The beginning, on one line."""
    line = " ".join(words.split())
    return line if len(line) <= WORDS_CHARACTERS else line[: WORDS_CHARACTERS - 1] + "…"


def _error(error: object) -> NowservingError:
    """An error in mid-stream: its status is 200 already, so the server's own code must tell whose fault it was."""
    code = error.get("code") or error.get("status") if isinstance(error, dict) else None
    words = f"the server failed: {_words(json.dumps({'error': error}))}"
    return _blame(words) if isinstance(code, int) and 400 <= code < 500 else EngineError(words)


def _blame(words: str) -> NowservingError:
    too_large = any(sign in words.lower() for sign in _TOO_LARGE)
    return TooLargeError(words) if too_large else InvalidInputError(words)


def _words(body: str) -> str:
    """The message in an error's body, in whichever of the usual places it stands."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = body
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return bounded(found if isinstance(found, str) else json.dumps(found))


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens", 0)]
    whole = [count for count in counts if type(count) is int and 0 <= count < 2**31]
    return Usage(*whole) if len(whole) == len(counts) else None


def _ids(ids: object) -> tuple[int, ...] | None:
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        return None
    return tuple(ids)


def _whole(text: str) -> str:
    """The same with U+FFFD for what is half a surrogate pair: JSON can say it, UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
