import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.tiny import make_tokenizer
from workers.engines.text import StopMatcher, TextStream

TOKENIZER = Tokenizer.from_str(make_tokenizer().backend_tokenizer.to_str())
letters = st.text("abc", max_size=30)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


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
    stream = TextStream(TOKENIZER, [])
    events = [stream.feed(token)[0] for token in TOKENIZER.encode(text, add_special_tokens=False).ids]
    assert not any("�" in event for event in events)
    assert "".join(events) + stream.finish() == stream.text == text


@pytest.mark.parametrize("text", ["👩‍👩‍👧‍👦 ok", "日本語のテキスト", "e\u0301 naïve", "\x00\x7f\n"])
def test_emoji_and_cjk(text: str) -> None:
    stream = TextStream(TOKENIZER, [])
    assert "".join(stream.feed(token)[0] for token in TOKENIZER.encode(text).ids) == text


def test_half_a_character_at_the_end_is_left_out() -> None:
    stream = TextStream(TOKENIZER, [])
    ids = TOKENIZER.encode("ab€").ids
    assert [stream.feed(token)[0] for token in ids[:-1]] == ["a", "b", "", ""]
    assert stream.finish() == ""
    assert stream.text == "ab"


def test_special_tokens_have_no_text() -> None:
    stream = TextStream(TOKENIZER, [])
    assert [stream.feed(token)[0] for token in [*TOKENIZER.encode("a").ids, 0, *TOKENIZER.encode("b").ids]] == [
        "a",
        "",
        "b",
    ]
