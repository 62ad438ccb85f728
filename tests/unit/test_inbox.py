import pytest

from workers.engines.engine import Ended, FinishReason
from workers.inbox import Inbox

END = Ended(FinishReason.STOP, "ab", 1, 2)


def test_the_first_token_is_passed_on_at_once() -> None:
    inbox = Inbox(made=0)
    inbox.begun(3)
    assert inbox.next().begun == 3
    inbox.tokens(0, [7], "a")
    piece = inbox.next()
    assert (piece.begun, piece.index, piece.ids, piece.text, piece.ended) == (None, 0, (7,), "a", None)


def test_indexes_go_on_where_the_checkpoint_ends() -> None:
    inbox = Inbox(made=5)
    inbox.tokens(5, [1, 2], "x")
    assert inbox.next().index == 5
    inbox.tokens(7, [3], "y")
    inbox.ended(END)
    assert inbox.next().index == 7


def test_the_end_takes_all_that_is_left_along() -> None:
    inbox = Inbox(made=0)
    inbox.begun(1)
    inbox.tokens(0, [1], "a")
    inbox.tokens(1, [], "b")
    inbox.ended(END)
    piece = inbox.next()
    assert (piece.ids, piece.text, piece.ended) == ((1,), "ab", END)


def test_text_without_a_token_waits_for_one() -> None:
    inbox = Inbox(made=0)
    inbox.tokens(0, [], "late")
    inbox.begun(1)
    assert inbox.next().ids == ()
    inbox.tokens(0, [4], "!")
    piece = inbox.next()
    assert (piece.ids, piece.text) == ((4,), "late!")


def test_progress_is_passed_on_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("workers.inbox.time.monotonic", lambda: now)
    inbox = Inbox(made=0)
    told = []
    for step in range(1, 9):
        inbox.progress(step, 9)
        inbox.begun(1)
        told.append(inbox.next().progress)
        now += 0.4
    assert told == [(1, 9), None, None, (4, 9), None, None, (7, 9), None]


def test_progress_alone_is_something_to_pass_on_and_moot_once_there_are_tokens() -> None:
    inbox = Inbox(made=0)
    inbox.progress(5, 9)
    piece = inbox.next()
    assert (piece.begun, piece.progress, piece.ids, piece.ended) == (None, (5, 9), (), None)
    other = Inbox(made=0)
    other.progress(5, 9)
    other.tokens(0, [1], "a")
    assert other.next().progress is None
    other.progress(5, 9)
    other.ended(END)
    assert other.next().progress is None


@pytest.mark.parametrize(("jobs", "seconds"), [(1, 0.05), (20, 0.05), (40, 0.1), (128, 0.25)])
def test_beside_many_jobs_later_tokens_are_passed_on_less_often(
    jobs: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("workers.inbox.time.monotonic", lambda: now)
    inbox = Inbox(0, lambda: jobs)
    inbox.tokens(0, [1], "a")
    assert inbox.next().ids == (1,)
    inbox.tokens(1, [2], "b")
    now += 0.9 * seconds
    assert not inbox._due()
    now += 0.2 * seconds
    assert inbox.next().ids == (2,)
