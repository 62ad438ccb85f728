"""Whoever follows a job that waits hears when its outlook changes, and Redis is asked no more than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import pytest

from nowserving import verb
from nowserving.answer import Standing
from nowserving.call import Call
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker
from tests.sse import Reader

Eventually = Callable[..., None]
ROUND_SECONDS = 0.05


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Quick rounds, and the jobs that each has asked for."""
    rounds: list[tuple[str, ...]] = []
    original = verb.positions

    def positions(job_ids: Iterable[str]) -> Call[dict[str, Standing]]:
        call = original(job_ids)
        rounds.append(tuple(map(str, call.args)))
        return call

    monkeypatch.setattr(verb, "positions", positions)
    monkeypatch.setattr("api.lookout.ROUND_SECONDS", ROUND_SECONDS)
    return rounds


def positions_of(reader: Reader) -> list[int]:
    return [data["position"] for kind, data in reader.read if kind == "queued" and "position" in data]


def test_a_waiting_reader_hears_of_each_change_and_then_of_the_job(
    api: ApiServer, worker: FakeWorker, eventually: Eventually, asked: list[tuple[str, ...]]
) -> None:
    first, second, third = (api.submit_id() for _ in range(3))
    with Reader(api, third) as reader:
        eventually(lambda: positions_of(reader) == [2])
        api.http.post(f"/v1/jobs/{first}/cancel")
        eventually(lambda: positions_of(reader) == [2, 1])
        # Nothing has changed since: nothing is told.
        seen = len(asked)
        eventually(lambda: len(asked) > seen + 3)
        assert reader.kinds == ["queued", "queued"]
        assert reader.read[0][1]["reason"] == "no_worker"
        worker.beat()
        eventually(lambda: reader.read[-1][1]["reason"] == "behind")
        api.http.post(f"/v1/jobs/{second}/cancel")
        eventually(lambda: (reader.read[-1][1]["position"], reader.read[-1][1]["reason"]) == (0, "starting"))
        assert all(event.id == "" for event in reader.events)
        assert worker.begin() == third
        worker.finish(third)
        reader.join()
    assert reader.kinds[-2:] == ["started", "succeeded"]
    assert set(reader.kinds[:-2]) == {"queued"}


def test_a_job_handed_back_has_an_outlook_again(api: ApiServer, worker: FakeWorker, eventually: Eventually) -> None:
    job_id = api.submit_id()
    with Reader(api, job_id) as reader:
        worker.begin()
        eventually(lambda: "started" in reader.kinds)
        worker.release(job_id)
        eventually(lambda: reader.kinds[-2:] == ["queued", "queued"])
        assert ("cause" in reader.read[-2][1], reader.read[-1][1]["position"]) == (True, 0)
        # It has no id of its own: who is cut off here goes on after the event before.
        assert reader.events[-1].id == reader.events[-2].id
    with Reader(api, job_id, after=reader.events[-1].id) as rest:
        eventually(lambda: positions_of(rest)[:1] == [0])
        worker.begin()
        worker.finish(job_id)
        rest.join()
    assert rest.kinds[-2:] == ["started", "succeeded"]


def test_a_job_is_looked_at_once_a_round_for_all_its_readers_and_not_once_it_runs(
    api: ApiServer, worker: FakeWorker, eventually: Eventually, asked: list[tuple[str, ...]]
) -> None:
    first, second = api.submit_id(), api.submit_id()
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(api, job_id)) for job_id in (first, second) for _ in range(10)]
        eventually(lambda: all(reader.kinds for reader in readers))
        began, seen = time.monotonic(), len(asked)
        eventually(lambda: len(asked) > seen + 5)
        assert len(asked) - seen <= (time.monotonic() - began) / ROUND_SECONDS + 1
        assert all(len(ids) == len(set(ids)) for ids in asked)
        assert sorted(asked[-1]) == sorted([first, second])
        assert worker.begin() == first
        eventually(lambda: asked[-1] == (second,))
        eventually(lambda: all(positions_of(reader)[-1] == 0 for reader in readers[10:]))
    eventually(lambda: api.app.state.front.hub.waiters == 0)
    seen = len(asked)
    time.sleep(5 * ROUND_SECONDS)
    assert len(asked) <= seen + 1


def test_with_more_jobs_than_a_round_has_looks_each_has_its_turn(
    api: ApiServer, eventually: Eventually, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.lookout.JOBS_A_ROUND", 2)
    ids = [api.submit_id() for _ in range(6)]
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(api, job_id)) for job_id in ids[1:]]
        eventually(lambda: all(reader.kinds for reader in readers))
        api.http.post(f"/v1/jobs/{ids[0]}/cancel")
        eventually(lambda: [positions_of(reader)[-1] for reader in readers] == [0, 1, 2, 3, 4])
    assert max(map(len, asked)) == 2
