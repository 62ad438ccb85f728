"""The judges of the storm must see what they are there for."""

from tests.chaos.sight import Sight
from tests.chaos.witness import Act, overlaps


def acts(*steps: str) -> list[Act]:
    """`a take`, `b append`, `a finish lost`: claim, verb, what the script said."""
    made = []
    for number, step in enumerate(steps):
        claim, verb, said = (*step.split(), "ok")[:3]
        made.append(Act(float(number), verb, "job", claim, said))
    return made


def test_claims_one_after_the_other_do_not_overlap() -> None:
    assert not overlaps(acts("a take", "a begin", "a append", "b take", "b append", "a append lost", "b finish"))


def test_a_late_write_that_is_accepted_is_an_overlap() -> None:
    assert len(overlaps(acts("a take", "a append", "b take", "a append", "b finish"))) == 1
    assert len(overlaps(acts("a take", "b take", "a finish"))) == 1


def test_a_write_without_a_take_is_wrong() -> None:
    assert len(overlaps(acts("a take", "b append"))) == 1


def see(*events: tuple[str, int, int]) -> Sight:
    """Token events of (index, count); the count 0 stands for an event without tokens."""
    sight = Sight()
    for kind, index, count in events:
        text = "".join(f"w{number} " for number in range(index, index + count))
        sight.see(kind, {"index": index, "ids": [0] * count, "text": text})
    return sight


def test_tokens_each_once_and_in_order_are_right() -> None:
    sight = see(("started", 0, 0), ("token", 0, 1), ("queued", 0, 0), ("token", 1, 2), ("succeeded", 0, 0))
    assert not sight.wrong("w0 w1 w2 ")


def test_repeated_and_missing_tokens_are_counted() -> None:
    sight = see(("token", 0, 3), ("token", 1, 3), ("token", 6, 1))
    assert (sight.repeated, sight.missing) == (2, 2)


def test_an_event_after_the_end_and_a_second_end_are_wrong() -> None:
    assert see(("token", 0, 1), ("succeeded", 0, 0), ("token", 1, 1)).wrong("w0 w1 ")
    assert see(("token", 0, 1), ("succeeded", 0, 0), ("failed", 0, 0)).wrong("w0 ")


def test_an_engine_that_begins_anew_is_read_anew() -> None:
    sight = see(("token", 0, 2), ("restarted", 0, 0), ("token", 0, 3), ("succeeded", 0, 0))
    assert not sight.wrong("w0 w1 w2 ")
