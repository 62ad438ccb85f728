"""From token ids to text that can be shown: whole characters, and nothing that may yet be part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from tokenizers import Tokenizer

from workers.engines.stop import StopMatcher

BROKEN = "\N{REPLACEMENT CHARACTER}"
MOST_PENDING = 8
"""So many tokens may wait for the rest of a character. One has at most 4 bytes, but its end may begin the next one."""
CONTEXT, MOST_CONTEXT = 4, 8
"""Tokens kept before the next one, since they say how it is spelled: with a space before it, as the rest of a
character. When there are more than the one figure only so many as the other stay.
"""


class Pieces:
    """What a tokenizer's tokens are in a text. Made once for a model; nothing changes it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        special = {token for token, kind in added.items() if kind.special}
        self._spoken = frozenset(tokenizer.get_vocab().values()) - special
        bytes_by_token = {tokenizer.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
        bytes_by_token.pop(None, None)
        letter = next((token for token, byte in bytes_by_token.items() if byte == ord("A")), None)
        falls_back = letter is not None and tokenizer.decode([letter]) == "A"
        self.bytes = bytes_by_token if falls_back else {}
        """Tokens that are one byte each, where the tokenizer spells unknown characters so."""

    def is_silent(self, token: int) -> bool:
        """Whether it has no text at all: a special token, or one that the model knows and the tokenizer does not."""
        return token not in self._spoken

    def spell(self, tokens: Sequence[int]) -> str:
        """Their text, if they were all; bytes that are no whole character are BROKEN."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


class Characters:
    """The characters of one text, token by token; those that are not whole yet are held back.

    A token's spelling depends on those before it, so the last few are spelled anew with it.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._tokens: list[int] = []
        self._shown = 0
        """How many characters of these tokens' text have been given."""
        self._pending = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """Take a token; give the characters that are whole with it."""
        byte = self._pieces.bytes.get(token)
        if byte is not None:
            return self._feed_byte(token, byte)
        if self._pieces.is_silent(token):
            return ""
        broken = self._utf8.decode(b"", final=True)
        self._tokens.append(token)
        self._pending += 1
        text = self._pieces.spell(self._tokens)
        end = len(text)
        if text.endswith(BROKEN):
            if self._pending < MOST_PENDING:
                return broken
            end -= 1  # it may yet become whole; what stands before it will not
        given = broken + text[self._shown : end]
        self._shown, self._pending = end, 0
        if len(self._tokens) > MOST_CONTEXT:
            self._tokens = self._tokens[-CONTEXT:]
            self._shown = len(self._pieces.spell(self._tokens)) - (len(text) - end)
        return given

    def _feed_byte(self, token: int, byte: int) -> str:
        """A tokenizer spells a run of bytes as a whole, and one wrong byte breaks all of it: so they are read here."""
        before, first = self._pieces.spell(self._tokens)[self._shown :], not self._tokens
        self._tokens = [token]
        self._shown, self._pending = len(self._pieces.spell(self._tokens)), 0
        text = self._utf8.decode(bytes([byte]))
        # Some tokenizers leave out the text's first space.
        return before + (text if self._shown or not first else "")


class TextStream:
    """The text of one job. What each token releases depends on the tokens so far alone, so a replay repeats it."""

    def __init__(self, pieces: Pieces, stops: Sequence[str]) -> None:
        self._characters = Characters(pieces)
        self._matcher = StopMatcher(stops)
        self._released: list[str] = []

    @property
    def text(self) -> str:
        """All that was released."""
        return "".join(self._released)

    def feed(self, token: int) -> tuple[str, bool]:
        """Take a token; give the text it releases and whether a stop string was met."""
        text, stopped = self._matcher.feed(self._characters.feed(token))
        self._released.append(text)
        return text, stopped

    def finish(self) -> str:
        """Give what was held back, since no token follows; bytes that are no whole character never come."""
        text = self._matcher.flush()
        self._released.append(text)
        return text
