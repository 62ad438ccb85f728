"""Jobs for which nobody waits are canceled, also if Redis is away just then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from api import canceler
from api.canceler import Canceler
from nowserving.call import Call
from nowserving.errors import JobFinishedError, JobNotFoundError, RecordError, StoreUnavailableError
from nowserving.store import AsyncStore


class Store:
    """Answers to the cancel of each job what the test says, one after another, then that it was done."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Exception]] = {}
        self.asked: list[str] = []

    async def run(self, call: Call[Any]) -> None:
        job_id = str(call.args[0])
        self.asked.append(job_id)
        if answers := self.answers.get(job_id):
            raise answers.pop(0)


def run(scene: Callable[[Store, Canceler], Awaitable[None]]) -> Store:
    async def play() -> Store:
        store = Store()
        made = Canceler(cast(AsyncStore, store))
        made.start()
        await scene(store, made)
        await made.close()
        return store

    return asyncio.run(play())


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canceler, "PAUSE_SECONDS", 0)


def test_what_is_left_when_it_closes_is_canceled_before() -> None:
    async def scene(_: Store, made: Canceler) -> None:
        for number in range(200):
            made.cancel(f"{number}")

    assert sorted(run(scene).asked, key=int) == [str(number) for number in range(200)]


@pytest.mark.parametrize(
    ("answers", "times"),
    [
        ([], 1),
        ([JobFinishedError("x")], 1),
        ([ZeroDivisionError()], 1),
        ([RecordError("x")], 1),
        ([StoreUnavailableError("x")] * 20, 21),
        ([JobNotFoundError("x")], 2),
        ([JobNotFoundError("x")] * 9, canceler.TRIES_TO_FIND),
    ],
)
def test_a_job_is_asked_for_until_nothing_is_left_to_do(answers: list[Exception], times: int) -> None:
    async def scene(store: Store, made: Canceler) -> None:
        store.answers["a"] = list(answers)
        made.cancel("a")

    assert run(scene).asked == ["a"] * times


def test_many_that_are_not_there_keep_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canceler, "JOBS_AT_ONCE", 1)

    async def scene(store: Store, made: Canceler) -> None:
        for job_id in "abc":
            store.answers[job_id] = [JobNotFoundError("x")] * 9
            made.cancel(job_id)
        made.cancel("d")

    assert run(scene).asked == [*"abcd", *"abcabc"]


def test_while_redis_is_away_it_is_asked_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canceler, "JOBS_AT_ONCE", 2)

    async def scene(store: Store, made: Canceler) -> None:
        store.answers["a"] = [StoreUnavailableError("x")] * 2
        for job_id in "abcd":
            made.cancel(job_id)

    assert run(scene).asked == [*"ab", *"ac", *"ad"]


def test_the_oldest_is_given_up_for_a_newer_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(canceler, "MOST_JOBS", 2)

    async def scene(_: Store, made: Canceler) -> None:
        for job_id in "abc":
            made.cancel(job_id)

    assert run(scene).asked == ["b", "c"]
    assert "a, for which nobody waits, is not canceled" in caplog.text


def test_closing_waits_no_longer_than_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canceler, "CLOSE_SECONDS", 0.01)

    async def scene(store: Store, made: Canceler) -> None:
        store.answers["a"] = [StoreUnavailableError("x")] * 1_000_000
        made.cancel("a")

    assert run(scene).answers["a"], "it would be asked for so often"
