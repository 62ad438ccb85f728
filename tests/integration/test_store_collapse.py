"""The contract of the scripts, on fakeredis and on a real Redis: an ended job's stream is made short, and then goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.place import Place
from nowserving import keys, verb
from nowserving.event import Event
from nowserving.job import Status
from nowserving.store import Store
from tests.board import enqueue, look, queue, reap
from tests.teller import DUE, Step, Teller, collapse, kinds, later, set_clock, stream, tell, token


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    set_clock(store)


def test_token_events_become_one_progress_goes_and_all_others_stay_as_they_are(store: Store) -> None:
    job_id = tell(store, "read", (1, "a"), (2, "bc"), "drained", "read", "read", (3, "déf😀"))
    before = stream(store, job_id)
    store.client.pexpire(keys.events(job_id), 60_000)
    collapse(store)
    after = stream(store, job_id)
    assert [event.type for event in before].count("progress") == 3
    assert [event.type for event in after] == ["started", "queued", "started", "token", "succeeded"]
    assert token(store, job_id) == {"index": 0, "ids": [0, 1, 2, 3, 4, 5], "text": "abcdéf😀"}
    passing = ("token", "progress")
    assert [event for event in after if event.type != "token"] == [e for e in before if e.type not in passing]
    assert after[3].id == before[-2].id
    assert 0 < store.client.pttl(keys.events(job_id)) <= 60_000


def test_it_is_done_once_and_not_before_its_time(store: Store) -> None:
    job_id = tell(store, (1, "a"), (1, "b"))
    before = stream(store, job_id)
    later(store, DUE - 0.1)
    reap(store)
    assert stream(store, job_id) == before
    later(store, 0.2)
    reap(store)
    after = stream(store, job_id)
    assert len(after) == 3
    assert store.client.zcard(keys.COLLAPSE) == 0
    store.client.zadd(keys.COLLAPSE, {job_id: 0})
    reap(store)
    assert stream(store, job_id) == after


def test_only_the_text_after_the_last_restart_is_kept(store: Store) -> None:
    job_id = tell(store, (2, "ab"), "restarted", (1, "x"), (1, "y"), "restarted", (1, "A"), (2, "BC"))
    collapse(store)
    assert token(store, job_id) == {"index": 0, "ids": [0, 1, 2], "text": "ABC"}
    again = ["queued", "started", "restarted"]
    assert kinds(store, job_id) == ["started", *again, *again, "token", "succeeded"]


def test_a_text_given_up_leaves_no_token_event(store: Store) -> None:
    job_id = tell(store, (1, "a"), (1, "b"), "restarted")
    collapse(store)
    assert kinds(store, job_id) == ["started", "queued", "started", "restarted", "succeeded"]


def test_a_short_story_is_never_looked_at(store: Store) -> None:
    tell(store, (1, "a"))
    soon_gone = Teller(store)
    soon_gone.tell((1, "a"), (1, "b"))
    store.client.hset(keys.JOB + soon_gone.job_id, "retain_seconds", "30")
    soon_gone.finish()
    store.run(verb.cancel(enqueue(store)))
    assert store.client.zcard(keys.COLLAPSE) == 0


@pytest.mark.parametrize("end", ["canceled", "failed"])
def test_whatever_the_end_is_the_story_is_made_short(store: Store, end: str) -> None:
    teller = Teller(store)
    teller.tell((1, "a"), (1, "b"))
    if end == "canceled":
        store.run(verb.cancel(teller.job_id))
    else:
        teller.finish(Status.FAILED)
    collapse(store)
    assert kinds(store, teller.job_id) == ["started", "token", end]


def test_a_canceled_job_puts_out_the_text_after_its_last_restart(store: Store) -> None:
    teller = Teller(store)
    teller.tell((1, "lost "), "restarted", (1, "to "), (2, "be kept"))
    store.run(verb.cancel(teller.job_id))
    output = look(store, teller.job_id).output
    assert output is not None
    assert (output["text"], output["usage"]["completion_tokens"]) == ("to be kept", 3)


def fill(store: Store, job_id: str, entries: int) -> None:
    """Put token events into a stream, as a long job does."""
    with store.client.pipeline(transaction=False) as pipeline:
        for i in range(entries):
            fields = {"type": "token", "at": "1", "index": i, "ids": i, "text": "x"}
            pipeline.xadd(keys.events(job_id), fields)  # type: ignore[arg-type]
        pipeline.execute()


def lengths(store: Store, job_ids: Iterable[str]) -> list[int]:
    return [store.client.xlen(keys.events(job_id)) for job_id in job_ids]


def test_a_tick_does_no_more_than_others_can_wait_for(store: Store) -> None:
    tellers = [Teller(store) for _ in range(4)]
    for teller, entries in zip(tellers, (1000, 2000, 4998, 5), strict=True):
        fill(store, teller.job_id, entries)
        teller.finish()
    job_ids = [teller.job_id for teller in tellers]
    by_time = store.client.zrange(keys.COLLAPSE, 0, -1)
    store.client.zadd(keys.COLLAPSE, {job_id: i for i, job_id in enumerate(job_ids)})
    assert set(by_time) == set(job_ids)
    collapse(store)
    assert lengths(store, job_ids) == [3, 3, 5000, 7]
    # One that is longer than a tick's work gets a tick of its own.
    reap(store)
    assert lengths(store, job_ids) == [3, 3, 3, 7]
    reap(store)
    assert lengths(store, job_ids) == [3, 3, 3, 3]
    store.client.zadd(keys.COLLAPSE, {f"job_{i}": i for i in range(101)})
    reap(store)
    assert store.client.zcard(keys.COLLAPSE) == 1


def test_a_very_long_stream_is_left_as_it_is(store: Store) -> None:
    teller, other = Teller(store), Teller(store)
    fill(store, teller.job_id, 20_000)
    fill(store, other.job_id, 4)
    teller.finish()
    other.finish()
    collapse(store)
    assert lengths(store, [teller.job_id, other.job_id]) == [20_002, 3]
    assert store.client.zcard(keys.COLLAPSE) == 0


def test_nothing_but_an_ended_job_is_collapsed(store: Store) -> None:
    store.client.set(keys.events("job_string"), "not a stream")
    running, ended = Teller(store), tell(store, (1, "a"), (1, "b"))
    running.tell((1, "a"), (1, "b"))
    store.client.zadd(keys.COLLAPSE, {"job_string": 0, "job_gone": 1, running.job_id: 2})
    collapse(store)
    assert kinds(store, running.job_id) == ["started", "token", "token"]
    assert kinds(store, ended) == ["started", "token", "succeeded"]
    assert store.client.zcard(keys.COLLAPSE) == 0


def everything(store: Store) -> str:
    """All keys, with what they hold."""
    readers: dict[str, Callable[[str], object]] = {
        "string": store.client.get,
        "hash": store.client.hgetall,
        "zset": lambda key: store.client.zrange(key, 0, -1),
        "stream": store.client.xrange,
    }
    return str({key: readers[str(store.client.type(key))](key) for key in store.client.scan_iter("*")})


@pytest.mark.parametrize("collapsed", [True, False])
def test_a_forgotten_job_leaves_nothing(store: Store, collapsed: bool) -> None:
    job_id = tell(store, (1, "a"), "drained", (1, "b"))
    if collapsed:
        collapse(store)
    assert job_id in everything(store)
    # So many are to be collapsed before it that it is forgotten first.
    store.client.zadd(keys.COLLAPSE, {f"job_{i}": i for i in range(100)})
    later(store, 86_401)
    # Redis's own clock may take the keys before the tick does.
    store.client.delete(keys.JOB + job_id, keys.events(job_id))
    assert reap(store).forgotten == 1
    assert job_id not in everything(store)
    assert queue(store).depth == 0


class Seen:
    """What a client makes of the events it gets: the text, and the index of each of its tokens."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens: list[int] = []
        self.place = Place()

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            unseen, self.place = self.place.unseen(event), self.place.after(event)
            if unseen and unseen.type == "restarted":
                self.text, self.tokens = "", []
            elif unseen and unseen.type == "token":
                assert unseen.data["index"] == len(self.tokens)
                self.tokens += unseen.data["ids"]
                self.text += unseen.data["text"]

    def catch_up(self, store: Store, job_id: str) -> tuple[str, list[int]]:
        """Read on from the last event's id."""
        while events := store.run(verb.read_events({job_id: self.place.event_id}))[job_id]:
            self.take(events)
        return self.text, self.tokens


def expected(steps: Iterable[Step], rest: str) -> tuple[str, list[int]]:
    text, count = "", 0
    for step in steps:
        if step == "restarted":
            text, count = "", 0
        elif not isinstance(step, str):
            text, count = text + step[1], count + step[0]
    return text + rest, list(range(count))


STEPS = st.lists(
    st.tuples(st.integers(1, 4), st.text("aé€😀 \n", max_size=6)) | st.sampled_from(["read", "drained", "restarted"]),
    max_size=12,
)


@given(STEPS, st.text("z😀", max_size=3))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_a_reader_was_it_gets_the_rest_once(store: Store, steps: list[Step], rest: str) -> None:
    store.client.flushall()
    set_clock(store)
    teller = Teller(store)
    teller.tell(*steps)
    job_id = teller.finish(rest=rest)
    before = stream(store, job_id)
    readers = []
    for after in range(len(before) + 1):
        for _ in range(2):
            readers.append(Seen())
            readers[-1].take(before[:after])
    whole = expected(steps, rest)
    assert all(reader.catch_up(store, job_id) == whole for reader in readers[::2])
    collapse(store)
    after_collapse = stream(store, job_id)
    assert sum(event.type == "token" for event in after_collapse) <= 1
    assert all(reader.catch_up(store, job_id) == whole for reader in readers[1::2])
    for after in range(len(after_collapse) + 1):
        reader = Seen()
        reader.take(after_collapse[:after])
        assert reader.catch_up(store, job_id) == whole
