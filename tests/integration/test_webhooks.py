"""Callbacks from POST to receiver: API, worker and deliverer as processes, a receiver of the official library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from nowserving import letter
from nowserving.client import Client
from nowserving.job import Status
from nowserving.secret import new_secret
from nowserving.store import Store
from tests.api_process import ApiProcess
from tests.deliverer_process import SECRET, DelivererProcess
from tests.deliverer_process import ready as delivers
from tests.mailbox import Letter, Mailbox
from tests.worker_process import MODEL, WorkerProcess, noop, ready

Eventually = Callable[..., None]

JOBS = 1000
DELIVERED = {"delivered"}
OLD = "whsec_" + "b2xk" * 8
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def client(redis_url: str, tmp_path: Path, live: Store, eventually: Eventually) -> Iterator[Client]:
    """Of an API, beside which a worker and a deliverer run."""
    settings = {"webhook_secret": f"{SECRET},{OLD}", "webhook_allow": "127.0.0.1", "public_url": "https://api.example"}
    retries = {"webhook_retry_seconds": "1,1,1,1"}
    api, worker = ApiProcess(redis_url, tmp_path, noop(), **settings), WorkerProcess(redis_url, tmp_path, noop())
    deliverer = DelivererProcess(redis_url, tmp_path, **settings, **retries)
    with api, worker, deliverer, Client(api.url, retry_seconds=20) as client:
        eventually(lambda: ready(live) and delivers(live), 30)
        yield client


def hook(mailbox: Mailbox, **more: object) -> dict[str, object]:
    return {"url": mailbox.receiver().url, **more}


def test_the_official_library_accepts_each_of_a_thousand_jobs(
    client: Client, live: Store, mailbox: Mailbox, eventually: Eventually
) -> None:
    ids = [client.submit(MODEL, prompt=f"{number} é✓", webhook=hook(mailbox)).id for number in range(JOBS)]
    eventually(lambda: live.run(letter.tally()).delivered == JOBS, 60)
    came: Counter[str] = Counter()
    for each in mailbox.letters:
        said = each.verify(SECRET)
        assert said == each.verify(OLD), "both secrets are valid while one is changed"
        assert isinstance(said, dict)
        came[said["data"]["id"]] += 1
    assert came == Counter(ids)
    one = mailbox.letters[0]
    said = one.verify(SECRET)
    assert isinstance(said, dict)
    shown = client.get(said["data"]["id"])
    assert (said["type"], said["data"]["output"]) == ("job.succeeded", dict(shown.output or {}))
    assert said["data"]["urls"]["self"] == f"https://api.example/v1/jobs/{shown.id}"
    for wrong in (altered(one), grown_old(one)):
        with pytest.raises(WebhookVerificationError):
            wrong.verify(SECRET)
    with pytest.raises(WebhookVerificationError):
        one.verify(new_secret())


def altered(letter: Letter) -> Letter:
    return Letter(1, letter.at, letter.path, letter.headers, letter.body.replace(b"succeeded", b"succeedeD"))


def grown_old(letter: Letter) -> Letter:
    """The same, ten minutes ago, and signed then."""
    stamp = letter.timestamp - 600
    signed = Webhook(SECRET).sign(letter.id, datetime.fromtimestamp(stamp, UTC), letter.body.decode())
    headers = {**letter.headers, "webhook-timestamp": str(stamp), "webhook-signature": signed}
    return Letter(1, letter.at, letter.path, headers, letter.body)


def test_a_receiver_that_is_down_for_three_attempts_gets_every_event(
    client: Client, mailbox: Mailbox, eventually: Eventually
) -> None:
    mailbox.answer = lambda each: 503 if mailbox.ids.count(each.id) <= 3 else 200
    ids = [client.submit(MODEL, prompt="x", webhook=hook(mailbox)).id for _ in range(20)]

    def all_delivered() -> bool:
        return {each.status for job_id in ids for each in client.deliveries(job_id).deliveries} == DELIVERED

    eventually(all_delivered, 60)
    assert set(Counter(mailbox.ids).values()) == {4}
    assert len(set(mailbox.ids)) == len(ids)
    for delivery_id in set(mailbox.ids):
        letters = [each for each in mailbox.letters if each.id == delivery_id]
        stamps = [each.timestamp for each in letters]
        assert stamps == sorted(set(stamps))
        assert len({each.body for each in letters}) == 1


def test_every_event_is_told_to_who_asked_for_it(client: Client, mailbox: Mailbox, eventually: Eventually) -> None:
    asked = hook(mailbox, events=["job.started", "job.canceled", "job.succeeded"], secret=new_secret())
    job = client.submit(MODEL, prompt="x", webhook=asked)
    assert client.wait(job.id, 20).status is Status.SUCCEEDED
    eventually(lambda: len(mailbox.letters) == 2, 20)
    types = []
    for each in mailbox.letters:
        said = Webhook(str(asked["secret"])).verify(each.body, dict(each.headers))
        types.append(said["type"])
        with pytest.raises(WebhookVerificationError):
            each.verify(SECRET)
    assert sorted(types) == ["job.started", "job.succeeded"]
    assert sorted(each.event for each in client.deliveries(job.id).deliveries) == sorted(types)


def test_a_trace_goes_on_at_the_receiver(client: Client, mailbox: Mailbox, eventually: Eventually) -> None:
    body = {"model": MODEL, "input": {"prompt": "x"}, "webhook": hook(mailbox)}
    httpx.post(f"{client.base_url}/v1/jobs", json=body, headers={"traceparent": TRACEPARENT}).raise_for_status()
    eventually(lambda: mailbox.letters, 20)
    assert mailbox.letters[0].headers["traceparent"] == TRACEPARENT
