from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from nowserving.cli.table import (
    draw_attempts,
    draw_deliveries,
    draw_job,
    draw_jobs,
    draw_queues,
    draw_workers,
    explain_start,
    explain_wait,
    run_seconds,
    shorten,
)
from nowserving.client import Delivery, Job

ANSWER: dict[str, Any] = {
    "id": "job_01k0000000000000000000000a",
    "model": "smollm2",
    "status": "succeeded",
    "attempt": 1,
    "created_at": "2026-01-01T00:00:00.000Z",
    "started_at": "2026-01-01T00:00:01.000Z",
    "finished_at": "2026-01-01T00:00:03.500Z",
    "output": {"text": "Paris.", "finish_reason": "stop", "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
    "a field of a later version": 1,
}


def rendered(table: object, width: int = 160) -> str:
    with StringIO() as file:
        Console(width=width, file=file).print(table)
        return file.getvalue()


def test_a_job_shows_its_text_and_how_long_it_ran() -> None:
    job = Job.from_answer(ANSWER)
    assert run_seconds(job) == 2.5
    shown = rendered(draw_job(job))
    assert "Paris." in shown
    assert "2.5 s" in shown
    assert "5 in, 2 out (stop)" in shown


def test_a_failed_job_shows_its_error_not_markup() -> None:
    failure = {"status": "failed", "output": None, "error": {"code": "too_large", "message": "[bold]9 > 8[/]"}}
    assert "too_large: [bold]9 > 8[/]" in rendered(draw_job(Job.from_answer({**ANSWER, **failure})))


def test_a_list_tells_errors_in_full_on_any_screen() -> None:
    message = "its worker died 3 times before a first new token"
    failure = {"status": "failed", "output": None, "error": {"code": "worker_lost", "message": message}}
    job = Job.from_answer({**ANSWER, **failure})
    assert f"worker_lost: {message}" in rendered(draw_jobs([job]))
    narrow = rendered(draw_jobs([job], 80), 80)
    assert f"{job.id}  smollm2  failed" in narrow
    header, *lines = narrow.splitlines()
    assert " ".join(line[header.index("text") :].strip() for line in lines) == f"worker_lost: {message}"


def test_a_retried_job_says_of_what() -> None:
    shown = rendered(draw_job(Job.from_answer({**ANSWER, "retry_of": "job_01k0000000000000000000000b"})))
    assert shown.splitlines()[3].split() == ["retry", "of", "job_01k0000000000000000000000b"]


def test_a_list_shows_texts_as_they_are() -> None:
    job = Job.from_answer({**ANSWER, "output": {"text": "[red]a\nb[/red]"}})
    assert "[red]a b[/red]" in rendered(draw_jobs([job]))


def test_queues_show_their_counts() -> None:
    shown = rendered(
        draw_queues([{"model": "smollm2", "depth": 7, "running": 4, "dead": 3, "oldest_wait_seconds": 12.3}])
    )
    assert shown.splitlines()[1].split() == ["smollm2", "7", "4", "3", "12", "s"]


def test_workers_show_how_far_they_are_and_why_they_take_nothing() -> None:
    worker = {"model": "m", "name": "host:1:ab", "state": "loading", "detail": "loading 43%", "running": 0, "slots": 8}
    ready = {**worker, "state": "ready", "detail": "", "gate": {"open": True, "reason": None}}
    shown = rendered(draw_workers([{**worker, "gate": {"open": False, "reason": "engine"}}, ready]))
    assert shown.splitlines()[1].split() == ["m", "host:1:ab", "loading", "43%", "0", "8", "no:", "engine"]
    assert shown.splitlines()[2].split() == ["m", "host:1:ab", "ready", "0", "8", "yes"]
    # An older worker says less.
    assert rendered(draw_workers([{"model": "m", "name": "x"}])).splitlines()[1].split() == ["m", "x", "no:", "?"]


def test_a_start_is_told_by_its_phases() -> None:
    assert explain_start({"start_seconds": {"import": 2.08, "load": 3}}) == "import 2.1 s, load 3.0 s"
    assert explain_start({}) == ""


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        ({}, ""),
        ({"position": 2, "depth": 5}, "2 before it"),
        ({"position": 0, "reason": "slots", "explanation": "all slots are taken"}, "next, all slots are taken"),
        ({"reason": "a new reason"}, "a new reason"),
        ({"position": 1, "depth": 9, "estimated_wait_seconds": 3.6}, "1 before it, about 4 s"),
    ],
)
def test_a_wait_is_explained_by_what_is_known(queue: dict[str, Any], words: str) -> None:
    assert explain_wait(queue) == words


def test_long_texts_become_one_short_line() -> None:
    assert shorten("a\n b", 5) == "a b"
    assert shorten("abcdefgh", 5) == "abcd…"


ATTEMPT = {"at": "2026-01-01T00:00:03.600Z", "status": 500, "latency_seconds": 0.0213, "error": None, "answer": "a\nb"}
DELIVERY: dict[str, Any] = {
    "id": "dlv_01k0000000000000000000000a_succeeded",
    "job": ANSWER["id"],
    "event": "job.succeeded",
    "url": "https://hooks.example/jobs",
    "receiver": None,
    "status": "pending",
    "attempt_count": 1,
    "created_at": "2026-01-01T00:00:03.500Z",
    "next_attempt_at": "2026-01-01T00:00:08.700Z",
    "finished_at": None,
    "attempts": [ATTEMPT],
    "a field of a later version": 1,
}


def test_a_delivery_says_how_it_went_and_when_it_goes_again() -> None:
    delivery = Delivery.from_answer(DELIVERY)
    wide = rendered(draw_deliveries([delivery]))
    assert f"{delivery.id}  pending         1  HTTP 500, again at 2026-01-01T00:00:08Z  {delivery.url}" in wide
    narrow = rendered(draw_deliveries([delivery], 80), 80)
    assert delivery.id in narrow
    assert "hooks.example" not in narrow
    assert "2026-01-01T00:00:03.600Z    0.021  HTTP 500 a b" in rendered(draw_attempts(delivery))


def test_a_delivery_that_found_nobody_says_why() -> None:
    refused = {**ATTEMPT, "status": None, "error": "connection refused", "answer": ""}
    dead = {**DELIVERY, "status": "dead", "next_attempt_at": None, "attempts": [ATTEMPT, refused]}
    assert "dead           1  connection refused" in rendered(draw_deliveries([Delivery.from_answer(dead)]))
    unsent = {**DELIVERY, "next_attempt_at": None, "attempts": [], "attempt_count": 0, "reason": "no_deliverer"}
    shown = rendered(draw_deliveries([Delivery.from_answer(unsent)]))
    assert "pending         0  no deliverer runs: nowserving deliver" in shown
    due = Delivery.from_answer({**DELIVERY, "next_attempt_at": None, "reason": "no_deliverer"})
    assert "HTTP 500, no deliverer runs: nowserving deliver" in rendered(draw_deliveries([due]))


def test_no_answer_of_a_receiver_colours_the_screen() -> None:
    hostile = {**ATTEMPT, "answer": "\x1b[2Jgone\x9b1m [bold]"}
    shown = rendered(draw_attempts(Delivery.from_answer({**DELIVERY, "attempts": [hostile]})))
    assert "[2Jgone" in shown
    assert "[bold]" in shown
    assert not {"\x1b", "\x9b"} & set(shown)
