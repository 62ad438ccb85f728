from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

from tests.tiny import EOS, make_fallback_tokenizer, make_tokenizer
from workers.engines.stop import StopMatcher
from workers.engines.text import BROKEN, MOST_PENDING, Pieces, TextStream


def own(tokenizer: Any) -> Tokenizer:
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def make_straddling() -> Tokenizer:
    """One token a byte, but the end of one character is often one with the beginning of the next, as in real ones."""
    tokenizer = own(make_tokenizer())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("日本日é日👩\u200d👦")[
        0
    ][0]
    merges = [(spelled[end - 1], spelled[end]) for end in (3, 6, 9, 11, 14)]
    merges.append((spelled[8] + spelled[9], spelled[10] + spelled[11]))
    vocabulary = tokenizer.get_vocab()
    for first, second in merges:
        vocabulary.setdefault(first + second, len(vocabulary))
    tokenizer.model = models.BPE(vocab=vocabulary, merges=merges)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


TOKENIZER, FALLBACK, STRADDLING = own(make_tokenizer()), own(make_fallback_tokenizer()), make_straddling()
TOKENIZERS = {"byte level": TOKENIZER, "byte fallback": FALLBACK, "straddling": STRADDLING}
PIECES = {kind: Pieces(tokenizer) for kind, tokenizer in TOKENIZERS.items()}
characters = st.one_of(st.sampled_from("ab 日本é👩\u200d👦🏽\u0301\x00\n"), st.characters(exclude_categories=["Cs"]))
texts = st.lists(st.one_of(characters, st.sampled_from(["日本日", "日é", "日👩\u200d👦"])), max_size=20).map("".join)
letters = st.one_of(st.text("abc", max_size=30), st.text("ab", max_size=30))
stop_lists = st.lists(
    st.one_of(st.text("abc", min_size=1, max_size=4), st.text("ab", min_size=3, max_size=6)), max_size=4
)


def letter_by_letter(text: str, stops: list[str]) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))], True
    return text, False


@given(letters, stop_lists, st.lists(st.integers(1, 5), min_size=30))
def test_the_stop_found_does_not_depend_on_how_the_text_is_cut(text: str, stops: list[str], sizes: list[int]) -> None:
    matcher, released, stopped = StopMatcher(stops), "", False
    rest = text
    for size in sizes:
        piece, rest = rest[:size], rest[size:]
        certain, stopped = matcher.feed(piece)
        released += certain
        if stopped:
            break
    if not stopped:
        released += matcher.flush()
    assert (released, stopped) == letter_by_letter(text, stops)


@pytest.mark.parametrize(
    ("stops", "text", "before"),
    [
        (["aab"], "aaab", "a"),
        (["abab!"], "ababab!", "ab"),
        (["abcd", "bc"], "xabce", "xa"),
        (["abcde", "cd", "d"], "abcdx", "ab"),
        (["ab", "b"], "ab", ""),
        (["日本", "本"], "日x本", "日x"),
    ],
)
def test_a_stop_is_found_inside_and_after_what_is_nearly_another(stops: list[str], text: str, before: str) -> None:
    for size in range(1, len(text) + 1):
        matcher, released = StopMatcher(stops), ""
        for start in range(0, len(text), size):
            certain, stopped = matcher.feed(text[start : start + size])
            released += certain
            if stopped:
                break
        assert (released, stopped) == (before, True)


class Counted(list[int]):
    """Counts how often it is read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["a" * length + "b" for length in range(240, 256)], "a" * 4000),
        (["ab" * 127 + letter for letter in "cdefghijklmnopqr"], "ab" * 2000),
        ([letter + "a" * 255 for letter in "abcdefghijklmnop"], "".join(c + "a" * 250 for c in "abcdefghijklmnop")),
    ],
)
def test_long_and_many_stops_cost_no_more_than_the_text_is_long(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    matcher._shorter = Counted(matcher._shorter)
    released = "".join(matcher.feed(text[start : start + 4])[0] for start in range(0, len(text), 4))
    assert released + matcher.flush() == text
    assert matcher._shorter.reads <= len(text)


def test_a_thousand_stops_work() -> None:
    matcher = StopMatcher([f"stop {number}." for number in range(1000)])
    assert matcher.feed("stop 77 stop 77") == ("stop 77 ", False)
    assert matcher.feed("7. stop 1.") == ("", True)


@given(letters, stop_lists)
def test_what_is_released_is_never_taken_back(text: str, stops: list[str]) -> None:
    final, _ = letter_by_letter(text, stops)
    matcher, released = StopMatcher(stops), ""
    for letter in text:
        certain, stopped = matcher.feed(letter)
        released += certain
        assert final.startswith(released)
        if stopped:
            break


@given(st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda text: "�" not in text))
def test_characters_come_whole(text: str) -> None:
    stream = TextStream(PIECES["byte level"], [])
    events = [stream.feed(token)[0] for token in TOKENIZER.encode(text, add_special_tokens=False).ids]
    assert not any("�" in event for event in events)
    assert "".join(events) + stream.finish() == stream.text == text


def feed(kind: str, tokens: Iterable[int]) -> list[str]:
    stream = TextStream(PIECES[kind], [])
    return [stream.feed(token)[0] for token in tokens]


def whole_part(encoded: bytes) -> str:
    """The characters that are whole in the beginning of a text."""
    return encoded.decode("utf-8", "ignore")


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=texts)
def test_every_character_comes_whole_and_as_soon_as_it_is(kind: str, text: str) -> None:
    ids = TOKENIZERS[kind].encode(text).ids
    text = TOKENIZERS[kind].decode(ids)
    given = feed(kind, ids)
    assert "".join(given) == text or text.endswith(BROKEN)
    if BROKEN not in text:
        assert BROKEN not in "".join(given)
    if kind == "byte level" and BROKEN not in text:
        for end in range(len(ids)):
            assert "".join(given[:end]) == whole_part(text.encode()[:end])


def read_bytes(ids: list[int]) -> str:
    """What tokens of the byte fallback say: each its bytes."""
    parts = []
    for token in ids:
        piece = FALLBACK.id_to_token(token) or ""
        if piece.startswith("<0x"):
            parts.append(bytes([int(piece[3:5], 16)]))
        elif not piece.startswith("<"):
            parts.append(piece.replace("▁", " ").encode())
    return b"".join(parts).decode("utf-8", "replace").removeprefix(" ")


def ends_broken(kind: str, ids: list[int]) -> bool:
    """Whether the last few tokens all end amid a character, so that what is whole before it may still be held."""
    ends = [TOKENIZERS[kind].decode(ids[:end]).endswith(BROKEN) for end in range(1, len(ids) + 1)]
    return bool(ends) and ends[-1]


BYTES = "À日👩".encode()
"""Beginnings, middles and ends of characters."""
BYTE_IDS = {
    "byte level": TOKENIZER.encode("À日👩").ids,
    "byte fallback": [FALLBACK.get_vocab()[f"<0x{byte:02X}>"] for byte in BYTES],
    "straddling": [TOKENIZER.encode("À日👩").ids[0], *range(258, STRADDLING.get_vocab_size())],
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_a_model_that_talks_nonsense_has_a_text_too(kind: str, data: st.DataObject) -> None:
    """No token fails a job, nothing is held for ever, and every wrong byte stands for itself."""
    amid = st.sampled_from(BYTE_IDS[kind])
    ids = data.draw(st.one_of(st.lists(amid, max_size=60), st.lists(st.one_of(st.integers(0, 300), amid), max_size=30)))
    given = feed(kind, ids)
    spell = read_bytes if kind == "byte fallback" else TOKENIZERS[kind].decode
    expected = spell(ids)
    text = "".join(given)
    assert expected.startswith(text)
    assert set(expected[len(text) :]) <= {BROKEN} or ends_broken(kind, ids)
    loud = [token for token in ids if not PIECES[kind].is_silent(token)]
    assert len(text) >= len(spell(loud[:-MOST_PENDING])) - 1
    assert [feed(kind, ids[:end]) for end in range(len(ids))] == [given[:end] for end in range(len(ids))]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=texts)
def test_texts_that_are_whole_come_in_the_pieces_of_the_tokenizers_own_stream(kind: str, text: str) -> None:
    """A job may be resumed by a worker that asks that stream; but nothing is held as long as there."""
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text).ids
    assume(BROKEN not in tokenizer.decode(ids))
    stream = DecodeStream(skip_special_tokens=True)
    pieces = [stream.step(tokenizer, token) or "" for token in ids]
    given = feed(kind, ids)
    assert "".join(given) == "".join(pieces)
    if all(any(pieces[start : start + MOST_PENDING]) for start in range(len(pieces) - MOST_PENDING + 1)):
        assert given == pieces


@pytest.mark.parametrize(("kind", "text"), [("byte level", "À" * 3), ("straddling", "日本" * 30)])
def test_bytes_that_never_become_a_character_are_told_all_the_same(kind: str, text: str) -> None:
    ids = [token for token in TOKENIZERS[kind].encode(text).ids if token != TOKENIZER.encode("À").ids[0]] * 50
    given = feed(kind, ids)
    assert len("".join(given)) >= len(TOKENIZERS[kind].decode(ids)) - MOST_PENDING


def pieces(*names: str) -> list[int]:
    """Tokens of the byte fallback by their names."""
    return [FALLBACK.get_vocab()[name] for name in names]


def test_a_wrong_byte_breaks_nothing_but_itself() -> None:
    ids = pieces("<0xE6>", "<0x9C>", "<0xAC>", "<0xFF>", "<0xE6>", "▁a")
    assert feed("byte fallback", ids) == ["", "", "本", BROKEN, "", BROKEN + " a"]


def test_the_first_space_alone_is_left_out() -> None:
    ids = pieces("▁hello", "▁a", "▁", "<0x20>", "▁a", "▁hello")
    assert "".join(feed("byte fallback", ids)) == "hello a   a hello" == FALLBACK.decode(ids)
    for start in (2, 3):
        assert "".join(feed("byte fallback", ids[start:])) == FALLBACK.decode(ids[start:])


def test_words_whose_end_says_whether_a_space_follows() -> None:
    vocabulary = {"[UNK]": 0, "play": 1, "##ing": 2, "ball": 3, "日": 4}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    stream = TextStream(Pieces(tokenizer), [])
    ids = [1, 2, 3, 2, 4] * 5
    assert "".join(stream.feed(token)[0] for token in ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_without_text_keep_nothing(kind: str) -> None:
    """A job that ignores its end may make the end's token over and over; the model may know more than the tokenizer."""
    stream = TextStream(PIECES[kind], [])
    assert {stream.feed(token) for token in [EOS, 0, 10**6] * 1000} == {("", False)}
    assert stream._characters._tokens == []


@pytest.mark.parametrize("text", ["👩‍👩‍👧‍👦 ok", "日本語のテキスト", "e\u0301 naïve", "\x00\x7f\n"])
def test_emoji_and_cjk(text: str) -> None:
    stream = TextStream(PIECES["byte level"], [])
    assert "".join(stream.feed(token)[0] for token in TOKENIZER.encode(text).ids) == text


def test_half_a_character_at_the_end_is_left_out() -> None:
    stream = TextStream(PIECES["byte level"], [])
    ids = TOKENIZER.encode("ab€").ids
    assert [stream.feed(token)[0] for token in ids[:-1]] == ["a", "b", "", ""]
    assert stream.finish() == ""
    assert stream.text == "ab"


def test_special_tokens_have_no_text() -> None:
    stream = TextStream(PIECES["byte level"], [])
    assert [stream.feed(token)[0] for token in [*TOKENIZER.encode("a").ids, 0, *TOKENIZER.encode("b").ids]] == [
        "a",
        "",
        "b",
    ]
