"""Reconcile and deliveries, on fakeredis and on a real Redis: what disagrees about whose turn it is is mended."""

from __future__ import annotations

import pytest

from nowserving import keys, letter
from nowserving.delivery import WEBHOOKS
from nowserving.store import Store
from tests.board import at
from tests.letterbox import FAILED, ended, of, pick, receiver, reconcile, settle, tick

HOST = "example.com:443"


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    at(store, 0)


def in_all_places(store: Store) -> dict[str, str]:
    """A delivery in each state that one can be in; at most three of the host's are under way."""
    names = ("delivered", "dead", "stopped", "delayed", "sending", "queued", "other", "line", "behind")
    jobs = {name: ended(store, receiver(limit=3)) for name in names}
    for name in ("delivered", "dead", "stopped"):
        assert settle(store, pick(store, name)[0], name)
    assert settle(store, pick(store, "delayed")[0], "retry", FAILED, delay=86_400)
    assert len(pick(store, "sending")) == 1
    return {name: of(store, job_id)[0].id for name, job_id in jobs.items()}


def turn(delivery_id: str) -> str:
    return f"{HOST} {delivery_id}"


def test_a_healthy_system_gives_it_nothing_to_do(store: Store) -> None:
    in_all_places(store)
    assert store.run(letter.tally()).line == 2
    assert reconcile(store) == []
    at(store, 90_000)
    assert reconcile(store) == []


def test_a_delivery_that_stands_nowhere_gets_its_place_back(store: Store) -> None:
    places = in_all_places(store)
    store.client.zrem(keys.LINE, turn(places["line"]), turn(places["behind"]))
    store.client.zrem(keys.queue(WEBHOOKS), places["queued"])
    store.client.zrem(keys.DELAYED + WEBHOOKS, places["delayed"])
    assert reconcile(store) == ["queued_nowhere"] * 4
    assert reconcile(store) == []


def test_a_turn_that_nobody_has_holds_nobody_up(store: Store) -> None:
    places = in_all_places(store)
    store.client.zadd(keys.TURNS, {turn(places["delivered"]): 0, turn("dlv_none"): 0, "x": 0})
    store.client.zadd(keys.LINE, {turn(places["sending"]): 0, turn(places["dead"]): 0, "y": 0})
    assert sorted(reconcile(store)) == ["not_in_line"] * 2 + ["not_its_turn"] * 3 + ["queued_twice"]
    assert reconcile(store) == []


def test_a_delivery_under_way_counts_as_such(store: Store) -> None:
    places = in_all_places(store)
    store.client.zrem(keys.TURNS, turn(places["sending"]), turn(places["queued"]))
    assert sorted(reconcile(store)) == ["no_turn", "no_turn"]
    assert reconcile(store) == []


def test_a_line_that_nobody_leads_goes_on(store: Store) -> None:
    places = in_all_places(store)
    store.client.delete(keys.TURNS)
    for name in ("sending", "queued", "other"):
        store.client.delete(keys.JOB + places[name])
    assert "line_held_up" in reconcile(store)
    assert len(pick(store, "a", "b", "c")) == 2


def test_what_a_stranger_leaves_in_its_keys_is_set_aside(store: Store) -> None:
    in_all_places(store)
    for key in (keys.LINE, keys.TURNS, keys.DELIVERIES):
        store.client.delete(key)
        store.client.rpush(key, "x")
    store.client.set(keys.STATS + WEBHOOKS, "x")
    tick(store)
    reconcile(store)
    reconcile(store)
    assert reconcile(store) == []
    assert store.run(letter.tally()).attempts == 0
