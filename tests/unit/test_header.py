"""The headers: whatever a client sends, they are read, ignored or refused, and never misread."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.header import (
    id_before,
    precedes,
    read_api_key,
    read_idempotency_key,
    read_last_event_id,
    read_prefer_wait,
    read_traceparent,
)
from api.place import Place
from api.problem import ProblemError

U64 = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["wait=30"], 30),
        (["respond-async, wait=10"], 10),
        (["WAIT = 2.5 ; x=y"], 2.5),
        (['wait="7"'], 7),
        (["respond-async", "wait=3, wait=9"], 3),
        (["wait=0"], 0),
        (["wait"], None),
        (["wait=-1"], None),
        (["wait=nan", "wait=inf"], None),
        (["wait=1e9"], None),
        (["wait=soon, wait=4"], 4),
        (["waiting=4"], None),
        ([], None),
    ],
)
def test_prefer_wait(values: list[str], seconds: float | None) -> None:
    assert read_prefer_wait(values) == seconds


@given(st.lists(st.text()))
def test_any_prefer_header_is_read_or_ignored(values: list[str]) -> None:
    seconds = read_prefer_wait(values)
    assert seconds is None or 0 <= seconds < 10**9


@given(
    st.integers(0, 10**9 - 1),
    st.lists(st.from_regex(r"[a-z-]+(=[a-z]+)?", fullmatch=True).filter(lambda p: "wait" not in p)),
)
def test_wait_is_found_among_other_preferences(seconds: int, others: list[str]) -> None:
    assert read_prefer_wait([", ".join([*others, f"wait={seconds}", *others])]) == seconds


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_a_printable_idempotency_key_is_kept_as_it_is(key: str) -> None:
    assert read_idempotency_key({"idempotency-key": key}) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "schlüssel", "\x7f"])
def test_any_other_idempotency_key_is_refused(key: str) -> None:
    with pytest.raises(ProblemError, match="1 to 255 printable"):
        read_idempotency_key({"idempotency-key": key})


@given(U64, U64, U64, U64)
def test_a_place_is_read_as_it_was_written(milliseconds: int, sequence: int, tokens: int, characters: int) -> None:
    place = Place(f"{milliseconds}-{sequence}", tokens, characters)
    assert read_last_event_id(str(place)) == place


@given(U64, U64)
def test_a_stream_id_alone_is_read(milliseconds: int, sequence: int) -> None:
    event_id = f"{milliseconds}-{sequence}"
    assert read_last_event_id(event_id) == event_id


def numbers(event_id: str) -> list[int]:
    return [int(part) for part in re.split("[-.]", event_id)]


PLACE = re.compile(r"[0-9]{1,20}-[0-9]{1,20}(\.[0-9]{1,20}\.[0-9]{1,20})?")


@given(st.text(min_size=1) | st.from_regex(r"[0-9]{1,25}-[0-9]{1,25}(\.[0-9]{1,25}){0,3}", fullmatch=True))
def test_any_other_last_event_id_is_refused(text: str) -> None:
    if PLACE.fullmatch(text) and max(numbers(text)) < 2**64:
        assert numbers(str(read_last_event_id(text))) == numbers(text)
    else:
        with pytest.raises(ProblemError, match="the id of an event"):
            read_last_event_id(text)


@pytest.mark.parametrize(
    "text",
    [
        *("1", "-1-1", "1-", "1-2-3", "18446744073709551616-0", "$", "1-1\n", "١-١"),
        *("1-1.2", "1-1.2.", "1-1..2", "1-1.2.3.4", "1-1.-1.0", "1-1.1.0\n"),
        *("1-1.18446744073709551616.0", "1-1.0.18446744073709551616"),
    ],
)
def test_near_misses_of_an_event_id_are_refused(text: str) -> None:
    with pytest.raises(ProblemError):
        read_last_event_id(text)


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_a_traceparent_is_kept_as_it_is(flags: str) -> None:
    assert read_traceparent([f" 00-{TRACE}-{SPAN}-{flags}"]) == f"00-{TRACE}-{SPAN}-{flags}"


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [f"00-{TRACE}-{SPAN}"],
        [f"00-{TRACE}-{SPAN}-01-x"],
        [f"00-{TRACE.upper()}-{SPAN}-01"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE[1:]}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}-1"],
        [f"ff-{TRACE}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}-01"] * 2,
    ],
)
def test_any_other_traceparent_is_ignored(values: list[str]) -> None:
    assert read_traceparent(values) is None


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"authorization": "Bearer k1"}, "k1"),
        ({"authorization": "bearer  k1 "}, "k1"),
        ({"authorization": "Bearer k1", "x-api-key": "k2"}, "k1"),
        ({"authorization": "Basic k1", "x-api-key": "k2"}, "k2"),
        ({"authorization": "Bearer", "x-api-key": " k2 "}, "k2"),
        ({"authorization": "Basic k1"}, None),
        ({"x-api-key": " "}, None),
    ],
)
def test_the_api_key(headers: dict[str, str], key: str | None) -> None:
    assert read_api_key(headers) == key


def test_no_last_event_id_means_from_the_first() -> None:
    assert read_last_event_id(None) is None
    assert read_last_event_id("") is None


@given(U64, U64)
def test_nothing_lies_between_an_id_and_the_one_before(milliseconds: int, sequence: int) -> None:
    def number(event_id: str) -> int:
        first, second = map(int, event_id.split("-"))
        return first * 2**64 + second

    here = number(f"{milliseconds}-{sequence}")
    assert number(id_before(f"{milliseconds}-{sequence}")) == max(0, here - 1)


def test_stream_ids_are_ordered_by_number() -> None:
    ids = ["0-0", "0-9", "0-10", "9-0", "10-0"]
    assert sorted(ids, key=lambda one: sum(precedes(other, one) for other in ids)) == ids
