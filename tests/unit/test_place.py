"""A reader's place: what of an event is new to it, whether the story has been collapsed since or not."""

from __future__ import annotations

from api.place import Place
from nowserving.event import Event


def token(event_id: str, index: int, ids: list[int], text: str) -> Event:
    return Event(event_id, "token", 1.0, {"index": index, "ids": ids, "text": text})


COLLAPSED = token("9-0", 0, [1, 2, 3], "añ😀!")


def test_events_that_follow_each_other_are_new_and_counted() -> None:
    place = Place()
    for event in (Event("1-0", "started", 1.0, {}), token("2-0", 0, [1, 2], "a😀"), token("3-0", 2, [3], "")):
        assert place.unseen(event) is event
        place = place.after(event)
    assert str(place) == "3-0.3.2"


def test_of_a_collapsed_event_the_rest_is_new() -> None:
    unseen = Place("2-0", 2, 3).unseen(COLLAPSED)
    assert unseen is not None
    assert (unseen.id, unseen.data) == ("9-0", {"index": 2, "ids": [3], "text": "!"})
    assert str(Place("2-0", 2, 3).after(COLLAPSED)) == "9-0.3.4"
    assert COLLAPSED.data["ids"] == [1, 2, 3]


def test_tokens_without_text_and_text_without_tokens_are_new() -> None:
    tokens = Place("2-0", 1, 4).unseen(COLLAPSED)
    text = Place("2-0", 3, 1).unseen(COLLAPSED)
    assert tokens is not None
    assert text is not None
    assert (tokens.data["ids"], tokens.data["text"]) == ([2, 3], "")
    assert (text.data["index"], text.data["ids"], text.data["text"]) == (3, [], "ñ😀!")


def test_of_a_collapsed_event_seen_whole_nothing_is_new() -> None:
    assert Place("2-0", 3, 4).unseen(COLLAPSED) is None
    assert str(Place("2-0", 3, 4).after(COLLAPSED)) == "9-0.3.4"


def test_a_text_that_begins_anew_is_counted_anew() -> None:
    restarted = Event("3-0", "restarted", 1.0, {})
    place = Place("2-0", 2, 3)
    assert place.unseen(restarted) is restarted
    place = place.after(restarted)
    assert place == Place("3-0")
    assert place.unseen(COLLAPSED) is COLLAPSED


def test_other_events_are_always_new_and_count_nothing() -> None:
    ended = Event("10-0", "succeeded", 1.0, {"output": {"text": "añ😀!"}})
    assert Place("9-0", 3, 4).unseen(ended) is ended
    assert str(Place("9-0", 3, 4).after(ended)) == "10-0.3.4"
