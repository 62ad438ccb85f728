from __future__ import annotations

from nowserving.cli.crowd import changes
from nowserving.cli.watch import Watched, describe, draw
from nowserving.client import JobEvent
from nowserving.job import Status


def token(*ids: int, text: str = "", **data: int) -> JobEvent:
    return JobEvent("1-0", "token", {"ids": list(ids), "text": text, **data})


def test_tokens_are_counted_and_texts_joined() -> None:
    watched = Watched(1, "hello")
    watched.note(JobEvent("0-1", "started", {}), 10.0)
    watched.note(token(1, text="a"), 11.0)
    assert watched.tokens_per_second is None
    watched.note(token(2, 3, 4, text="b"), 13.0)
    assert (watched.status, watched.tokens, watched.text) == (Status.RUNNING, 4, "ab")
    assert watched.tokens_per_second == 1.5


def test_a_job_handed_back_is_queued_again() -> None:
    watched = Watched(1, "hello", status=Status.RUNNING)
    watched.note(JobEvent("0-1", "queued", {}), 1.0)
    assert watched.status is Status.QUEUED


def test_what_comes_twice_or_not_is_counted() -> None:
    watched = Watched(1, "hello")
    for index in (0, 2, 1, 3):
        watched.note(token(7, 7, index=index), 1.0)
    assert (watched.tokens, watched.repeated, watched.missing) == (5, 3, 0)
    watched.note(token(7, index=7), 1.0)
    assert (watched.tokens, watched.repeated, watched.missing) == (8, 3, 2)


def test_a_job_that_begins_anew_drops_what_it_had() -> None:
    watched = Watched(1, "hello")
    watched.note(token(1, 2, index=0, text="ab"), 1.0)
    watched.note(JobEvent("2-0", "restarted", {}), 2.0)
    assert (watched.tokens, watched.text, watched.tokens_per_second) == (0, "", None)
    watched.note(token(1, index=0, text="a"), 3.0)
    watched.note(token(2, 3, index=1, text="b"), 4.0)
    assert (watched.tokens, watched.text, watched.tokens_per_second) == (3, "ab", 2.0)
    assert (watched.repeated, watched.missing) == (0, 0)


def test_a_failure_shows_why() -> None:
    watched = Watched(1, "hello", ended=True)
    watched.note(JobEvent("0-1", "failed", {"error": {"code": "timeout", "message": "too slow"}}), 1.0)
    assert describe(watched) == "1 failed: timeout: too slow"
    assert draw([watched]).row_count == 1


def test_lines_are_printed_only_when_they_change() -> None:
    watched = Watched(1, "hello")
    printed: dict[int, str] = {}
    assert changes(printed, [watched]) == []
    watched.job_id, watched.wait = "job_1", "all slots are taken"
    assert changes(printed, [watched]) == ["1 queued: all slots are taken"]
    assert changes(printed, [watched]) == []
    watched.note(JobEvent("0-1", "started", {}), 1.0)
    assert changes(printed, [watched]) == ["1 running"]
    watched.note(token(1), 2.0)
    assert changes(printed, [watched]) == []


def test_how_much_of_a_prompt_is_read_is_shown_till_there_is_text() -> None:
    watched = Watched(1, "hello")
    watched.note(JobEvent("0-1", "started", {}), 1.0)
    watched.note(JobEvent("0-2", "progress", {"stage": "prefill", "done": 512, "total": 8000}), 2.0)
    assert (watched.status, watched.wait) == (Status.RUNNING, "reading the prompt: 512 of 8000 tokens")
    assert shown(watched) == "reading the prompt: 512 of 8000 tokens"
    watched.note(token(1, text="Once"), 3.0)
    assert shown(watched) == "Once"


def shown(watched: Watched) -> str:
    [cell] = draw([watched]).columns[-1].cells
    return str(cell)
