"""A job's events over HTTP: each once, in order, to the end, also over a lost connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from api.front import Front
from nowserving import verb
from nowserving.job import Status
from tests.api_server import ApiServer
from tests.fake_worker import FakeWorker
from tests.sse import Reader

Eventually = Callable[..., None]


def waiters(api: ApiServer) -> int:
    front: Front = api.app.state.front
    return front.hub.waiters


def ended_job(api: ApiServer, worker: FakeWorker, tokens: int = 5) -> str:
    api.submit_id()
    job_id = worker.begin()
    worker.tokens(job_id, 0, *(f"{i} " for i in range(tokens)))
    worker.finish(job_id, "".join(f"{i} " for i in range(tokens)))
    return job_id


def test_a_reader_sees_the_whole_story_as_it_happens(
    api: ApiServer, worker: FakeWorker, eventually: Eventually
) -> None:
    with Reader(api, api.submit_id()) as reader:
        eventually(lambda: reader.kinds == ["queued"])
        job_id = worker.begin()
        eventually(lambda: reader.kinds == ["queued", "started"])
        worker.tokens(job_id, 0, "a", "b")
        eventually(lambda: reader.text == "ab")
        worker.finish(job_id, "ab")
        reader.join()
    kinds = [kind for kind, _ in reader.read]
    assert kinds == ["queued", "started", "token", "token", "succeeded"]
    data = [data for _, data in reader.read]
    assert (data[0]["position"], data[0]["reason"], reader.events[0].id) == (0, "no_worker", "")
    assert data[1]["attempt"] == 1
    assert (data[3]["index"], data[3]["ids"], data[3]["text"]) == (1, [1], "b")
    assert data[4]["output"]["text"] == "ab"
    assert all(item["at"].endswith("Z") for item in data[1:])
    eventually(lambda: waiters(api) == 0)


def test_readers_learn_how_much_of_a_long_prompt_is_read(
    api: ApiServer, worker: FakeWorker, eventually: Eventually
) -> None:
    api.submit_id()
    job_id = worker.begin()
    with Reader(api, job_id) as reader:
        for done in (512, 1024):
            worker.progress(job_id, done, 8000)
            eventually(lambda done=done: [data.get("done") for _, data in reader.read][-1:] == [done])
        worker.tokens(job_id, 0, "a")
        worker.finish(job_id, "a")
        reader.join()
    assert reader.kinds == ["started", "progress", "progress", "token", "succeeded"]
    data = reader.read[2][1]
    assert (data["stage"], data["done"], data["total"], "index" in data) == ("prefill", 1024, 8000, False)
    for after in (1, 2):
        with Reader(api, job_id, after=reader.events[after].id) as rest:
            rest.join()
        assert rest.ids == reader.ids[after + 1 :]


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED])
def test_a_reader_after_the_end_gets_the_whole_story(api: ApiServer, worker: FakeWorker, status: Status) -> None:
    api.submit_id()
    job_id = worker.begin()
    worker.tokens(job_id, 0, "a")
    worker.finish(job_id, "a", status)
    with Reader(api, job_id) as reader:
        reader.join()
    assert reader.kinds == ["started", "token", status.value]


def test_a_canceled_job_ends_its_readers(api: ApiServer, eventually: Eventually) -> None:
    job_id = api.submit_id()
    with Reader(api, job_id) as reader:
        eventually(lambda: reader.kinds == ["queued"])
        api.http.post(f"/v1/jobs/{job_id}/cancel")
        reader.join()
    assert reader.kinds == ["queued", "canceled"]


def test_a_job_handed_back_is_queued_again_and_goes_on(
    api: ApiServer, worker: FakeWorker, eventually: Eventually
) -> None:
    with Reader(api, api.submit_id()) as reader:
        job_id = worker.begin()
        worker.tokens(job_id, 0, "a")
        worker.release(job_id)
        eventually(lambda: reader.kinds[-1:] == ["queued"])
        assert worker.begin() == job_id
        worker.tokens(job_id, 1, "b")
        worker.finish(job_id, "ab")
        reader.join()
    assert reader.kinds[-6:] == ["started", "token", "queued", "started", "token", "succeeded"]
    assert reader.text == "ab"


def test_resuming_after_any_event_gives_exactly_the_rest(api: ApiServer, worker: FakeWorker) -> None:
    job_id = ended_job(api, worker)
    with Reader(api, job_id) as whole:
        whole.join()
    assert len(whole.ids) == 7
    for i, event_id in enumerate(whole.ids[:-1]):
        with Reader(api, job_id, after=event_id) as rest:
            rest.join()
        assert rest.ids == whole.ids[i + 1 :]


def test_who_has_seen_the_end_is_told_not_to_come_back(api: ApiServer, worker: FakeWorker) -> None:
    job_id = ended_job(api, worker)
    with Reader(api, job_id) as whole:
        whole.join()
    answer = api.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": whole.ids[-1]})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("event_id", "code"),
    [
        ("nix", "invalid_header"),
        ("1", "invalid_header"),
        ("18446744073709551616-0", "invalid_header"),
        ("0-0", "unknown_event_id"),
        ("1-1", "unknown_event_id"),
        ("18446744073709551615-18446744073709551615", "unknown_event_id"),
    ],
)
def test_a_last_event_id_that_is_none_of_this_job_is_refused(
    api: ApiServer, worker: FakeWorker, event_id: str, code: str
) -> None:
    job_id = ended_job(api, worker)
    answer = api.http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": event_id})
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_dropped_readers_resume_without_loss_or_repeat(
    api: ApiServer, worker: FakeWorker, eventually: Eventually
) -> None:
    api.submit_id()
    job_id = worker.begin()
    seen: list[str] = []
    text = ""
    for i in range(8):
        with Reader(api, job_id, after=seen[-1] if seen else None) as reader:
            worker.tokens(job_id, i, f"<{i}>")
            eventually(lambda reader=reader, i=i: f"<{i}>" in reader.text)
        seen += reader.ids
        text += reader.text
    worker.finish(job_id)
    with Reader(api, job_id, after=seen[-1]) as reader:
        reader.join()
    assert text + reader.text == "".join(f"<{i}>" for i in range(8))
    assert len(set(seen + reader.ids)) == len(seen + reader.ids)


def test_readers_that_come_while_events_are_written_miss_none(api: ApiServer, worker: FakeWorker) -> None:
    api.submit_id()
    job_id = worker.begin()
    readers = []
    for i in range(60):
        worker.tokens(job_id, i, f"{i} ")
        if i % 2:
            readers.append(Reader(api, job_id))
    worker.finish(job_id)
    for reader in readers:
        reader.join(20)
        assert reader.text == "".join(f"{i} " for i in range(60))
        reader.hang_up()


def test_a_story_longer_than_one_read_is_told_whole(api: ApiServer, worker: FakeWorker) -> None:
    api.submit_id()
    job_id = worker.begin()
    texts = [f"{i} " for i in range(1203)]
    worker.tokens(job_id, 0, *texts)
    worker.finish(job_id)
    with Reader(api, job_id) as reader:
        reader.join(20)
    assert reader.text == "".join(texts)


def test_many_readers_of_one_job_share_its_reads(api: ApiServer, worker: FakeWorker, eventually: Eventually) -> None:
    api.submit_id()
    job_id = worker.begin()
    readers = [Reader(api, job_id) for _ in range(20)]
    eventually(lambda: all(reader.kinds == ["started"] for reader in readers), 10)

    def reads() -> int:
        return int(worker.store.client.info("commandstats")["cmdstat_xrange"]["calls"])

    before = reads()
    for i in range(10):
        worker.tokens(job_id, i, f"{i}")
        eventually(lambda i=i: all(reader.text.endswith(f"{i}") for reader in readers), 10)
    # 20 readers and 10 tokens are 200 reads if each reads for itself.
    assert reads() - before < 80
    for reader in readers:
        reader.hang_up()
    worker.finish(job_id)
    eventually(lambda: waiters(api) == 0, 10)


def test_a_reader_that_reads_nothing_holds_no_events_here(
    api: ApiServer, worker: FakeWorker, eventually: Eventually
) -> None:
    api.submit_id()
    job_id = worker.begin()
    with socket.create_connection(("127.0.0.1", api.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        eventually(lambda: waiters(api) == 1)
        for i in range(40):
            worker.tokens(job_id, i, "x" * 100_000)
        worker.finish(job_id)
        # It does not keep others from reading.
        with Reader(api, job_id) as quick:
            quick.join(20)
        assert len(quick.text) == 4_000_000
        assert waiters(api) >= 1
    eventually(lambda: waiters(api) == 0)


def test_a_job_forgotten_meanwhile_ends_its_readers(
    api: ApiServer, worker: FakeWorker, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.events.IDLE_SECONDS", 0.1)
    job_id = api.submit_id()
    with Reader(api, job_id) as reader:
        eventually(lambda: reader.kinds == ["queued"])
        time.sleep(0.3)
        assert waiters(api) == 1
        worker.store.client.flushall()
        reader.join()


def test_events_of_one_job_are_no_news_to_readers_of_another(
    api: ApiServer, worker: FakeWorker, eventually: Eventually
) -> None:
    first, second = api.submit_id(), api.submit_id()
    with Reader(api, first) as one, Reader(api, second) as two:
        assert [worker.begin(), worker.begin()] == [first, second]
        worker.tokens(first, 0, "a")
        worker.tokens(second, 0, "b")
        worker.finish(first)
        worker.finish(second)
        one.join()
        two.join()
    assert (one.text, two.text) == ("a", "b")
    assert worker.store.run(verb.read_events({first: "0"}))[first][-1].id == one.ids[-1].split(".")[0]
