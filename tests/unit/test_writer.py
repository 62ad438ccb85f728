"""The writer by itself: what it sends to Redis, when, and what becomes of what Redis does not take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from nowserving.answer import Taken
from nowserving.call import Call
from nowserving.errors import NowservingError, StoreFullError, StoreUnavailableError
from nowserving.job import Job
from workers.engines.engine import Ended, FinishReason
from workers.inbox import Piece
from workers.lease import Lease, Leases
from workers.metrics import JobMetrics
from workers.stopwatch import Stopwatch
from workers.writer import FLUSH_SECONDS, LONGEST_FLUSH_SECONDS, Stream, Writer

END = Ended(FinishReason.LENGTH, "", 1, 1)
Answer = bool | NowservingError


class ScriptedStore:
    """Notes what is sent, trip by trip, and answers as it is told; with True where it is told nothing."""

    def __init__(self) -> None:
        self.trips: list[list[tuple[Any, ...]]] = []
        self.answers: Callable[[Call[bool]], Answer] = lambda call: True

    def run_all(self, calls: Sequence[Call[bool]]) -> list[Answer]:
        self.trips.append([(call.script, call.args[0], *call.args[2:]) for call in calls])
        return [self.answers(call) for call in calls]


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("workers.writer.time.monotonic", lambda: now[0])
    monkeypatch.setattr("workers.writer.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.fixture
def leases() -> Leases:
    return Leases(30.0)


@pytest.fixture
def writer(store: ScriptedStore, leases: Leases, clock: list[float]) -> Writer:
    return Writer(cast(Any, store), leases)


def lease_of(leases: Leases, name: str) -> Lease:
    leases.add([name])
    return leases.fill(Taken(name, name, {"tokens": "9"}))


@pytest.fixture
def open_stream(writer: Writer, leases: Leases) -> Callable[[str], Stream]:
    metrics = JobMetrics("m")

    def start(name: str, made: int = 0) -> Stream:
        job = cast(Job, type("AJob", (), {"takes": 2, "started_at": None}))
        lease = lease_of(leases, name)
        stream = writer.open(lease, made, Stopwatch(metrics, job, since=0.0))
        lease.stop = lambda: stream.inbox.ended(END)
        return stream

    return start


def test_what_is_due_of_all_jobs_travels_together(
    writer: Writer, store: ScriptedStore, clock: list[float], open_stream: Callable[[str], Stream]
) -> None:
    one, two = open_stream("one"), open_stream("two")
    one.inbox.begun(3)
    two.inbox.begun(4)
    writer._write()
    for stream in (one, two):
        stream.inbox.tokens(0, [7], "a")
    writer._write()
    assert store.trips == [
        [("begin", "one", 3, 0), ("begin", "two", 4, 0)],
        [("append", "one", 0, 1, "7", "a"), ("append", "two", 0, 1, "7", "a")],
    ]
    for stream in (one, two):
        stream.inbox.tokens(1, [8], "b")
        stream.inbox.tokens(2, [9], "c")
    writer._write()
    assert len(store.trips) == 2
    clock[0] += FLUSH_SECONDS
    writer._write()
    assert store.trips[2:] == [[("append", "one", 1, 2, "8,9", "bc"), ("append", "two", 1, 2, "8,9", "bc")]]


def test_a_new_jobs_first_token_does_not_wait_for_the_others(
    writer: Writer, store: ScriptedStore, open_stream: Callable[[str], Stream]
) -> None:
    old = open_stream("old")
    old.inbox.tokens(0, [1], "a")
    writer._write()
    old.inbox.tokens(1, [2], "b")
    new = open_stream("new")
    new.inbox.tokens(0, [1], "a")
    writer._write()
    assert store.trips[1:] == [[("append", "new", 0, 1, "1", "a")]]


@pytest.mark.parametrize(("jobs", "seconds"), [(1, FLUSH_SECONDS), (20, 0.05), (40, 0.1), (128, LONGEST_FLUSH_SECONDS)])
def test_beside_many_jobs_later_tokens_are_written_less_often(
    jobs: int, seconds: float, writer: Writer, clock: list[float], open_stream: Callable[[str], Stream]
) -> None:
    streams = [open_stream(f"job{index}") for index in range(jobs)]
    streams[0].inbox.tokens(0, [1], "a")
    writer._write()
    assert writer._due_at - clock[0] == pytest.approx(seconds)


def test_nobody_is_woken_but_for_what_is_to_be_written_at_once(
    writer: Writer, clock: list[float], open_stream: Callable[[str], Stream]
) -> None:
    stream = open_stream("one")
    assert not writer._woken.is_set()
    stream.inbox.tokens(0, [1], "a")
    assert writer._woken.is_set()
    writer._woken.clear()
    writer._write()
    stream.inbox.tokens(1, [1], "a")
    assert not writer._woken.is_set()


def test_one_with_more_than_it_could_write_wakes_itself(writer: Writer, open_stream: Callable[[str], Stream]) -> None:
    stream = open_stream("one")
    stream.inbox.begun(1)
    stream.inbox.tokens(0, [1], "a")
    writer._woken.clear()
    writer._write()
    assert writer._woken.is_set()


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), StoreFullError("full")])
def test_what_redis_does_not_answer_is_sent_again_and_then_what_came_meanwhile(
    error: NowservingError,
    writer: Writer,
    store: ScriptedStore,
    clock: list[float],
    open_stream: Callable[[str], Stream],
) -> None:
    stream = open_stream("one")
    store.answers = lambda call: error
    stream.inbox.tokens(0, [1], "a")
    for _ in range(3):
        before = clock[0]
        writer._write()
        stream.inbox.tokens(len(store.trips), [2], "b")
        assert clock[0] > before
    store.answers = lambda call: True
    writer._write()
    clock[0] += LONGEST_FLUSH_SECONDS
    writer._write()
    first = [("append", "one", 0, 1, "1", "a")]
    assert store.trips == [first] * 4 + [[("append", "one", 1, 3, "2,2,2", "bbb")]]


def test_the_end_waits_for_what_is_sent_again(
    writer: Writer, store: ScriptedStore, open_stream: Callable[[str], Stream]
) -> None:
    stream = open_stream("one")
    store.answers = lambda call: StoreUnavailableError("away")
    stream.inbox.tokens(0, [1], "a")
    writer._write()
    stream.inbox.tokens(1, [2], "b")
    stream.inbox.ended(END)
    store.answers = lambda call: True
    writer._write()
    assert stream.inbox.rest() == Piece(index=1, ids=(2,), text="b", ended=END)
    assert store.trips == [[("append", "one", 0, 1, "1", "a")]] * 2


def test_who_has_lost_his_claim_writes_no_more_and_stops(
    writer: Writer, store: ScriptedStore, clock: list[float], open_stream: Callable[[str], Stream]
) -> None:
    one, two = open_stream("one"), open_stream("two")
    store.answers = lambda call: call.args[0] != "one"
    for stream in (one, two):
        stream.inbox.tokens(0, [1], "a")
    writer._write()
    assert (one.lease.lost.is_set(), two.lease.lost.is_set()) == (True, False)
    assert one.inbox.rest().ended == END
    for stream in (one, two):
        stream.inbox.tokens(1, [1], "a")
    clock[0] += LONGEST_FLUSH_SECONDS
    writer._write()
    assert store.trips[1:] == [[("append", "two", 1, 1, "1", "a")]]


def test_a_lease_that_ends_while_redis_is_away_ends_the_trying(
    writer: Writer, store: ScriptedStore, open_stream: Callable[[str], Stream]
) -> None:
    stream = open_stream("one")
    store.answers = lambda call: StoreUnavailableError("away")
    stream.inbox.tokens(0, [1], "a")
    writer._write()
    stream.lease.lost.set()
    writer._write()
    writer._write()
    assert len(store.trips) == 1


def test_what_redis_refuses_of_one_job_fails_that_job_alone(
    writer: Writer, store: ScriptedStore, open_stream: Callable[[str], Stream]
) -> None:
    one, two = open_stream("one"), open_stream("two")
    refusal = NowservingError("refused")
    store.answers = lambda call: refusal if call.args[0] == "one" else True
    for stream in (one, two):
        stream.inbox.tokens(0, [1], "a")
    writer._write()
    with pytest.raises(NowservingError, match="refused"):
        one.inbox.rest()
    two.inbox.ended(END)
    assert two.inbox.rest().index == 1
    store.answers = lambda call: True
    writer._due_at = 0.0
    assert writer._write() is True


def test_what_cannot_be_counted_of_one_job_fails_that_job_alone(
    writer: Writer, store: ScriptedStore, open_stream: Callable[[str], Stream]
) -> None:
    one, two = open_stream("one"), open_stream("two")
    one.inbox.begun(cast(Any, "three"))  # Redis takes it, the metrics do not
    two.inbox.begun(3)
    writer._write()
    with pytest.raises(TypeError):
        one.inbox.rest()
    two.inbox.ended(END)
    assert two.inbox.rest().begun is None
    assert len(store.trips) == 1


def test_tokens_that_become_due_while_others_are_written_do_not_wait_for_more(
    store: ScriptedStore, leases: Leases
) -> None:
    writer = Writer(cast(Any, store), leases)
    writer.start()
    job = cast(Job, type("AJob", (), {"takes": 2, "started_at": None}))
    one, two = (writer.open(lease_of(leases, name), 0, Stopwatch(JobMetrics("m"), job, 0.0)) for name in ("one", "two"))
    written = threading.Event()

    def answers(call: Call[bool]) -> Answer:
        if call.args[0] == "two":
            while time.monotonic() < writer._due_at:
                threading.Event().wait(0.001)
        elif call.args[2] == 1:
            written.set()
        return True

    store.answers = answers
    one.inbox.tokens(0, [5], "a")
    while not writer._due_at:
        threading.Event().wait(0.001)
    one.inbox.tokens(1, [6], "b")
    two.inbox.tokens(0, [5], "a")
    assert written.wait(10)


def test_its_thread_outlives_a_failure_of_its_own(store: ScriptedStore, leases: Leases) -> None:
    writer = Writer(cast(Any, store), leases)
    writer.start()
    job = cast(Job, type("AJob", (), {"takes": 2, "started_at": None}))
    stream = writer.open(lease_of(leases, "one"), 0, Stopwatch(JobMetrics("m"), job, since=0.0))
    appended = threading.Event()

    def answers(call: Call[bool]) -> Answer:
        if len(store.trips) == 1:
            raise RuntimeError("a bug")
        if call.script == "append":
            appended.set()
        return True

    store.answers = answers
    stream.inbox.begun(1)
    stream.inbox.tokens(0, [5], "a")
    assert appended.wait(10)
    assert [call[0] for trip in store.trips for call in trip] == ["begin", "begin", "append"]
    stream.inbox.ended(END)
    assert stream.inbox.rest().index == 1
