"""Random verbs on deliveries of few hosts, on fakeredis and on a real Redis: at each step each stands in one place."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nowserving import keys, letter, verb
from nowserving.answer import Taken
from nowserving.delivery import WEBHOOKS, DeliveryStatus
from nowserving.store import Store
from tests.board import at
from tests.letterbox import FAILED, ended, of, pick, receiver, reconcile, settle, tick

LIMITS = {"one:443": 1, "two:443": 2, "three:443": 3}
MOVES = ["end", "end", "take", "take", "settle", "settle", "settle", "repeat", "wait", "leave", "redeliver", "lapse"]

Step = tuple[str, int]


@dataclass
class Post:
    """The deliveries of one run, and who holds what."""

    store: Store
    clock: float = 0.0
    ids: dict[str, str] = field(default_factory=dict)
    """Delivery → host."""
    held: list[Taken] = field(default_factory=list)
    settled: list[Taken] = field(default_factory=list)
    claims: int = 0

    def do(self, move: str, number: int) -> None:
        getattr(self, move)(number)

    def end(self, number: int) -> None:
        host = list(LIMITS)[number % 3]
        (delivery,) = of(self.store, ended(self.store, receiver(host, LIMITS[host])))
        self.ids[delivery.id] = host

    def take(self, number: int) -> None:
        count = number % 4 + 1
        names = [f"c{self.claims + index}" for index in range(count)]
        self.claims += count
        taken = pick(self.store, *names)
        assert [each.job_id for each in pick(self.store, *names)][: len(taken)] == [each.job_id for each in taken]
        self.held += {each.claim: each for each in [*taken, *pick(self.store, *names)]}.values()

    def settle(self, number: int) -> None:
        if self.held:
            taken = self.held.pop(number % len(self.held))
            outcome: letter.Outcome = ("retry", "delivered", "retry", "dead", "stopped")[number % 5]
            assert settle(self.store, taken, outcome, FAILED, delay=number % 7, slow=number % 3 == 0)
            self.settled.append(taken)

    def repeat(self, number: int) -> None:
        if self.settled:
            settle(self.store, self.settled[number % len(self.settled)], "dead", FAILED)

    def wait(self, number: int) -> None:
        self.clock += number % 6
        at(self.store, self.clock)
        tick(self.store)
        self.held = [taken for taken in self.held if self.claim_of(taken) == taken.claim]

    def lapse(self, _: int) -> None:
        self.clock += 11
        self.wait(0)
        assert not self.held

    def leave(self, _: int) -> None:
        self.store.run(verb.leave(WEBHOOKS, "d"))
        self.held.clear()

    def redeliver(self, number: int) -> None:
        if self.ids:
            self.store.run(letter.redeliver(list(self.ids)[number % len(self.ids)]))

    def members(self, key: str) -> list[str]:
        return [str(member) for member in self.store.client.zrange(key, 0, -1)]

    def claim_of(self, taken: Taken) -> object:
        return self.store.client.hget(keys.JOB + taken.job_id, "claim")

    def check(self) -> None:
        queue = [*self.members(keys.queue(WEBHOOKS)), *self.members(keys.queue(WEBHOOKS, "batch"))]
        delayed, running = self.members(keys.DELAYED + WEBHOOKS), self.members(keys.RUNNING + WEBHOOKS)
        line, turns = ([turn.split(" ") for turn in self.members(key)] for key in (keys.LINE, keys.TURNS))
        places = Counter([*queue, *delayed, *running, *(delivery for _, delivery in line)])
        assert set(places.values()) <= {1}
        assert {delivery for _, delivery in turns} == {*queue, *running}
        assert all(self.ids[delivery] == host for host, delivery in [*line, *turns])
        under_way, waiting = Counter(host for host, _ in turns), Counter(host for host, _ in line)
        assert all(under_way[host] <= LIMITS[host] for host in LIMITS)
        assert all(under_way[host] for host in waiting), "a line that nobody leads"
        assert sorted(running) == sorted(taken.job_id for taken in self.held)
        for delivery in self.ids:
            status = self.store.client.hget(keys.JOB + delivery, "status")
            assert (status in ("queued", "running")) == bool(places[delivery]), (delivery, status)
            assert (status == "running") == (delivery in running)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 1000)), max_size=60))
def test_every_delivery_stands_in_one_place_and_ends(store: Store, steps: list[Step]) -> None:
    store.client.flushall()
    at(store, 0)
    post = Post(store)
    for move, number in steps:
        post.do(move, number)
        post.check()
    assert reconcile(store) == []
    for _ in range(20 * len(post.ids)):
        post.lapse(0)
        for taken in pick(store, *(f"last{post.claims + index}" for index in range(10))):
            assert settle(store, taken)
        post.claims += 10
    found = store.run(letter.list_deliveries(limit=100))[0]
    assert {delivery.id for delivery in found} == set(post.ids)
    assert all(delivery.status not in (DeliveryStatus.PENDING, DeliveryStatus.SENDING) for delivery in found)
