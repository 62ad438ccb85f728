"""A job's events over HTTP after its stream has been collapsed: late readers, and those that were cut off before."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable

import httpx
import pytest
from httpx_sse import EventSource

from nowserving import keys, verb
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker
from tests.sse import Reader

Eventually = Callable[..., None]
TEXTS = ("On", "ce ", "😀", "upon", " a", " time")
TEXT = "".join(TEXTS)


def told_job(
    api: ApiServer, worker: FakeWorker, *, long: bool = False, handed_back: bool = False, anew: bool = False
) -> str:
    """A job that has ended, but whose stream is not collapsed yet; of a `long` prompt the progress was told."""
    api.submit_id()
    job_id = worker.begin()
    if long:
        worker.progress(job_id, 1, 3)
        worker.progress(job_id, 2, 3)
    made = 0
    if handed_back or anew:
        worker.tokens(job_id, 0, *(TEXTS[:2] if handed_back else ("some", "thing ", "else")))
        worker.release(job_id)
        worker.begin(anew=anew)
        made = 2 if handed_back else 0
    worker.tokens(job_id, made, *TEXTS[made:])
    worker.finish(job_id, TEXT)
    return job_id


def read(api: ApiServer, job_id: str, after: str | None = None) -> Reader:
    with Reader(api, job_id, after) as reader:
        reader.join()
    return reader


def resume(api: ApiServer, whole: Reader, after: int, job_id: str, event_id: str = "") -> tuple[str, list[int]]:
    """What a client has in the end that had read so many events before it was cut off."""
    rest = read(api, job_id, event_id or whole.events[after - 1].id)
    assert rest.status == 200
    text, tokens = "", list[int]()
    for kind, data in [*whole.read[:after], *rest.read]:
        if kind == "restarted":
            text, tokens = "", []
        elif kind == "token":
            assert data["index"] == len(tokens)
            tokens += data["ids"]
            text += data["text"]
    assert rest.kinds[-1] == "succeeded"
    return text, tokens


def test_a_late_reader_gets_the_text_in_one(api: ApiServer, worker: FakeWorker) -> None:
    job_id = told_job(api, worker)
    whole = read(api, job_id)
    worker.collapse()
    late = read(api, job_id)
    assert late.kinds == ["started", "token", "succeeded"]
    assert late.read[0] == whole.read[0]
    assert late.read[2] == whole.read[-1]
    data = late.read[1][1]
    assert (data["index"], data["ids"], data["text"], data["at"]) == (0, [*range(6)], TEXT, whole.read[-2][1]["at"])
    # The same events have the same ids, before and after.
    assert late.ids == [whole.ids[0], whole.ids[-2], whole.ids[-1]]


@pytest.mark.parametrize("how", [{}, {"long": True}, {"handed_back": True}, {"anew": True, "long": True}])
def test_a_reader_cut_off_anywhere_gets_exactly_the_rest(
    api: ApiServer, worker: FakeWorker, how: dict[str, bool]
) -> None:
    job_id = told_job(api, worker, **how)
    whole = read(api, job_id)
    assert ("restarted" in whole.kinds) is how.get("anew", False)
    for after in range(1, len(whole.events)):
        assert resume(api, whole, after, job_id) == (TEXT, [*range(6)])
    worker.collapse()
    for after in range(1, len(whole.events)):
        assert resume(api, whole, after, job_id) == (TEXT, [*range(6)])


def test_who_has_seen_the_end_is_told_not_to_come_back(api: ApiServer, worker: FakeWorker) -> None:
    job_id = told_job(api, worker)
    last = read(api, job_id).ids[-1]
    worker.collapse()
    for event_id in (last, bare(last)):
        answer = api.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": event_id})
        assert (answer.status_code, answer.content) == (204, b"")


def bare(event_id: str) -> str:
    """The id as earlier versions gave it: the stream's alone."""
    return event_id.split(".")[0]


@pytest.mark.parametrize("how", [{}, {"long": True}, {"handed_back": True}, {"anew": True}])
def test_an_id_of_an_earlier_version_resumes_while_its_event_is_there(
    api: ApiServer, worker: FakeWorker, how: dict[str, bool]
) -> None:
    job_id = told_job(api, worker, **how)
    whole = read(api, job_id)
    for after in range(1, len(whole.events)):
        rest = read(api, job_id, bare(whole.events[after - 1].id))
        assert (rest.ids, rest.read) == (whole.ids[after:], whole.read[after:])


@pytest.mark.parametrize(
    ("how", "accepted"),
    [
        # The beginning, and the last token; or any event after whose text it begins anew.
        ({}, ["started", "token"]),
        ({"handed_back": True}, ["started", "token"]),
        ({"anew": True}, ["started", "queued", "started", "restarted", "token"]),
    ],
)
def test_an_id_of_an_earlier_version_is_refused_where_what_was_seen_cannot_be_told(
    api: ApiServer, worker: FakeWorker, how: dict[str, bool], accepted: list[str]
) -> None:
    job_id = told_job(api, worker, **how)
    whole = read(api, job_id)
    worker.collapse()
    kinds = []
    for after in range(1, len(whole.events)):
        event_id = bare(whole.events[after - 1].id)
        if read(api, job_id, event_id).status == 200:
            assert resume(api, whole, after, job_id, event_id) == (TEXT, [*range(6)])
            kinds.append(whole.kinds[after - 1])
        else:
            answer = api.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": event_id})
            assert (answer.status_code, answer.json()["code"]) == (422, "unknown_event_id")
    assert kinds == accepted


def test_a_story_longer_than_one_read_is_resumed_by_either_id(api: ApiServer, worker: FakeWorker) -> None:
    api.submit_id()
    job_id = worker.begin()
    texts = [f"{i} " for i in range(1203)]
    worker.tokens(job_id, 0, *texts)
    worker.finish(job_id)
    whole = read(api, job_id)
    event = whole.events[1101]
    assert read(api, job_id, bare(event.id)).ids == whole.ids[1102:]
    worker.collapse()
    assert read(api, job_id, event.id).text == "".join(texts[1101:])


@pytest.mark.parametrize("collapsed", [True, False])
@pytest.mark.parametrize("event_id", ["0-0.0.0", "1-1.2.3", "18446744073709551615-18446744073709551615.6.20"])
def test_a_place_outside_of_the_story_is_refused(
    api: ApiServer, worker: FakeWorker, event_id: str, collapsed: bool
) -> None:
    job_id = told_job(api, worker)
    if collapsed:
        worker.collapse()
    answer = api.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": event_id})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_event_id")


def test_a_running_job_has_lost_no_event(api: ApiServer, worker: FakeWorker) -> None:
    api.submit_id()
    job_id = worker.begin()
    worker.tokens(job_id, 0, "a", "b")
    _, gone, _ = worker.store.run(verb.read_events({job_id: "0"}))[job_id]
    worker.store.client.xdel(keys.events(job_id), gone.id)
    answer = api.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": f"{gone.id}.1.1"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_event_id")


def test_a_reader_too_slow_for_its_stream_goes_on_in_the_collapsed_one(
    api: ApiServer, worker: FakeWorker, eventually: Eventually
) -> None:
    api.submit_id()
    job_id = worker.begin()
    texts = [f"{i} é".ljust(100_000, "x") for i in range(60)]
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.connect(("127.0.0.1", api.port))
        connection = http.client.HTTPConnection("127.0.0.1", api.port)
        connection.sock = slow
        connection.request("GET", f"/v1/jobs/{job_id}/events")
        answer = connection.getresponse()
        worker.tokens(job_id, 0, *texts)
        # It has begun to read, and the API cannot have written all of it.
        body = answer.read(300_000)
        worker.finish(job_id, "".join(texts))
        worker.collapse()
        body += answer.read()
    events = [*EventSource(httpx.Response(200, headers=answer.headers.items(), content=body)).iter_sse()]
    tokens = [event.json() for event in events if event.event == "token"]
    assert "".join(token["text"] for token in tokens) == "".join(texts)
    assert [token_id for token in tokens for token_id in token["ids"]] == [*range(60)]
    assert tokens[0]["ids"] == [0]
    assert tokens[-1]["index"] > 0
    assert len(tokens[-1]["ids"]) > 1
    assert events[-1].event == "succeeded"


def test_the_tick_of_the_api_collapses_what_is_due(api: ApiServer, worker: FakeWorker, eventually: Eventually) -> None:
    job_id = told_job(api, worker)
    assert worker.store.client.zscore(keys.COLLAPSE, job_id) is not None
    worker.store.client.zadd(keys.COLLAPSE, {job_id: time.time()})
    eventually(lambda: read(api, job_id).kinds == ["started", "token", "succeeded"])
