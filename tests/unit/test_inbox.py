import threading
from collections.abc import Callable

import pytest

from workers.engines.engine import Ended, FinishReason
from workers.inbox import Inbox, Piece

END = Ended(FinishReason.STOP, "ab", 1, 2)
NEVER = float("inf")


def make_inbox(made: int = 0, wake: Callable[[], None] = lambda: None, due_at: float = NEVER) -> Inbox:
    return Inbox(made, wake, lambda: due_at)


def take(inbox: Inbox, due: bool = True) -> Piece:
    piece = inbox.take(due)
    assert piece
    inbox.written()
    return piece


def test_the_first_token_is_passed_on_at_once_and_later_ones_when_they_are_due() -> None:
    woken: list[str] = []
    inbox = make_inbox(wake=lambda: woken.append("woken"))
    inbox.begun(3)
    assert take(inbox, due=False).begun == 3
    inbox.tokens(0, [7], "a")
    assert take(inbox, due=False) == Piece(index=0, ids=(7,), text="a")
    assert len(woken) == 2
    inbox.tokens(1, [8], "b")
    assert len(woken) == 2
    assert inbox.take(due=False) is None
    assert take(inbox, due=True) == Piece(index=1, ids=(8,), text="b")


def test_a_token_that_comes_when_it_is_due_wakes() -> None:
    woken: list[str] = []
    inbox = make_inbox(wake=lambda: woken.append("woken"), due_at=0.0)
    for index in range(3):
        inbox.tokens(index, [7], "a")
        take(inbox)
    assert len(woken) == 3


def test_indexes_go_on_where_the_checkpoint_ends() -> None:
    inbox = make_inbox(made=5)
    inbox.tokens(5, [1, 2], "x")
    assert take(inbox).index == 5
    inbox.tokens(7, [3], "y")
    inbox.ended(END)
    assert inbox.rest().index == 7


def test_the_end_takes_all_that_is_left_along() -> None:
    inbox = make_inbox()
    inbox.begun(1)
    inbox.tokens(0, [1], "a")
    inbox.tokens(1, [], "b")
    inbox.ended(END)
    assert inbox.take(due=True) is None
    assert inbox.rest() == Piece(begun=1, index=0, ids=(1,), text="ab", ended=END)


def test_text_without_a_token_waits_for_one() -> None:
    inbox = make_inbox()
    inbox.tokens(0, [], "late")
    inbox.begun(1)
    assert take(inbox) == Piece(begun=1)
    assert inbox.take(due=True) is None
    inbox.tokens(0, [4], "!")
    piece = take(inbox)
    assert (piece.ids, piece.text) == ((4,), "late!")


def test_a_job_is_said_to_have_begun_before_anything_else_of_it() -> None:
    inbox = make_inbox()
    inbox.begun(1)
    inbox.tokens(0, [4], "!")
    assert take(inbox) == Piece(begun=1)
    assert take(inbox).ids == (4,)


def test_progress_is_passed_on_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("workers.inbox.time.monotonic", lambda: now)
    inbox = make_inbox()
    told = []
    for step in range(1, 9):
        inbox.progress(step, 9)
        piece = inbox.take(due=True)
        told.append(piece and piece.progress)
        inbox.written()
        now += 0.4
    assert told == [(1, 9), None, None, (4, 9), None, None, (7, 9), None]


def test_progress_is_moot_once_there_are_tokens_or_an_end() -> None:
    inbox = make_inbox()
    inbox.progress(5, 9)
    inbox.tokens(0, [1], "a")
    assert take(inbox) == Piece(index=0, ids=(1,), text="a")
    ended = make_inbox()
    ended.progress(5, 9)
    ended.ended(END)
    assert ended.rest().progress is None


def test_the_same_is_taken_until_it_is_written() -> None:
    inbox = make_inbox()
    inbox.tokens(0, [1], "a")
    first = inbox.take(due=True)
    inbox.tokens(1, [2], "b")
    assert inbox.take(due=False) is inbox.take(due=True) is first
    inbox.ended(END)
    assert inbox.take(due=True) is first
    inbox.written()
    assert inbox.rest().ids == (2,)


def rest_of(inbox: Inbox) -> tuple[threading.Thread, list[Piece | Exception]]:
    told: list[Piece | Exception] = []

    def wait() -> None:
        try:
            told.append(inbox.rest())
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, told


def test_the_rest_waits_for_what_is_under_way() -> None:
    inbox = make_inbox()
    inbox.tokens(0, [1], "a")
    assert inbox.take(due=True)
    inbox.ended(END)
    thread, told = rest_of(inbox)
    thread.join(0.05)
    assert not told
    inbox.written()
    thread.join(5)
    assert told == [Piece(index=1, ended=END)]


def test_the_rest_of_an_abandoned_job_waits_for_its_end_alone() -> None:
    inbox = make_inbox()
    inbox.tokens(0, [1], "a")
    assert inbox.take(due=True)
    inbox.abandon()
    assert inbox.take(due=True) is None
    thread, told = rest_of(inbox)
    thread.join(0.05)
    assert not told
    inbox.ended(END)
    thread.join(5)
    assert [piece.ended for piece in told if isinstance(piece, Piece)] == [END]


def test_a_failure_to_write_is_the_tasks() -> None:
    inbox = make_inbox()
    failure = RuntimeError("no")
    inbox.abandon(failure)
    thread, told = rest_of(inbox)
    thread.join(5)
    assert told == [failure]
