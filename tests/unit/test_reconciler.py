from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from api.reconcile import QUICK_SECONDS, SLOW_SECONDS, Reconciler
from nowserving.answer import Reconciled
from nowserving.errors import StoreUnavailableError


class Pages:
    """A store that answers with these pages, in order; an error is raised."""

    def __init__(self, *pages: Reconciled | Exception | None) -> None:
        self.asked: list[str] = []
        self._pages = list(pages)

    async def run(self, call: Any) -> Reconciled | None:
        self.asked.append(call.args[2])
        page = self._pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page


def page(cursor: str) -> Reconciled:
    return Reconciled(cursor, 200, ())


def make(pages: Pages) -> tuple[Reconciler, SimpleNamespace]:
    pulse = SimpleNamespace(state="ok", returns=1, name="test")
    return Reconciler(pages, pulse, ["m"]), pulse  # type: ignore[arg-type]


def look_on(reconciler: Reconciler) -> float:
    return asyncio.run(reconciler.look_on())


def test_the_first_round_is_quick_and_each_page_goes_on_from_the_last() -> None:
    pages = Pages(page("1 7"), page("2 9"), page(""), page("1 5"), page(""))
    reconciler, _ = make(pages)
    assert [look_on(reconciler) for _ in range(5)] == [QUICK_SECONDS, QUICK_SECONDS, *[SLOW_SECONDS] * 3]
    assert pages.asked == ["", "1 7", "2 9", "", "1 5"]


def test_when_redis_has_returned_a_quick_round_begins() -> None:
    pages = Pages(page(""), page("1 5"), page("1 7"), page(""))
    reconciler, pulse = make(pages)
    assert [look_on(reconciler), look_on(reconciler)] == [SLOW_SECONDS, SLOW_SECONDS]
    pulse.returns += 1  # between two looks: it was away for a moment alone
    assert [look_on(reconciler), look_on(reconciler)] == [QUICK_SECONDS, SLOW_SECONDS]
    assert pages.asked == ["", "", "", "1 7"]


def test_nothing_is_asked_of_a_redis_that_is_away_or_unsuitable() -> None:
    pages = Pages()
    reconciler, pulse = make(pages)
    for state in ("unavailable", "unsuitable: it is a cluster"):
        pulse.state = state
        assert look_on(reconciler) == SLOW_SECONDS
    assert pages.asked == []


def test_who_takes_over_from_another_process_begins_with_a_quick_round() -> None:
    pages = Pages(page("1 5"), None, page("1 9"))
    reconciler, _ = make(pages)
    assert [look_on(reconciler) for _ in range(3)] == [QUICK_SECONDS, SLOW_SECONDS, QUICK_SECONDS]
    assert pages.asked == ["", "1 5", ""]


def test_an_error_is_left_to_the_pulse() -> None:
    reconciler, _ = make(Pages(StoreUnavailableError("Redis does not answer for now")))
    with pytest.raises(StoreUnavailableError):
        look_on(reconciler)
