"""Short names for the verbs of deliveries, as the contract's tests use them, and for bringing deliveries about."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from nowserving import __version__, keys, letter, verb
from nowserving.answer import Taken
from nowserving.delivery import WEBHOOKS, Attempt, Delivery
from nowserving.job import Status, Submission, fields_of, new_job_id
from nowserving.receiver import Receiver
from nowserving.secret import new_secret
from nowserving.store import Store
from tests import board
from tests.api_server import ApiServer
from tests.board import LEASE, MODEL, take
from tests.fake_worker import FakeWorker

FAILED = Attempt(at=1000.0, status=500, seconds=0.25, answer="no")
DONE = Attempt(at=1000.0, status=204, seconds=0.25)
HOOK = {"url": "https://hooks.example/a", "secret": new_secret()}


def receiver(host: str = "example.com:443", limit: int = 8, **more: object) -> Receiver:
    return Receiver.model_validate({"url": f"https://{host}/hook", "host": host, "limit": limit, **more})


def enqueue(store: Store, *receivers: Receiver, retain: float = 86400, traceparent: str | None = None) -> str:
    job_id = new_job_id()
    body = {"model": MODEL, "input": {"prompt": "hello"}, "retain_seconds": retain, "metadata": {"a": "b"}}
    fields = fields_of(Submission.model_validate(body), 1, receivers=receivers, traceparent=traceparent)
    return store.run(verb.enqueue(job_id, MODEL, fields, max_depth=10_000)).job_id


def end(store: Store, job_id: str) -> None:
    """Take the next job, which must be this one, and let it succeed."""
    taken = take(store, f"claim of {job_id}")
    assert isinstance(taken, Taken)
    assert taken.job_id == job_id
    output = {"text": "hi", "finish_reason": "length", "usage": {}}
    call = verb.finish(job_id, taken.claim, Status.SUCCEEDED, output, index=0, ids=(1,), text="hi", begun=1)
    assert store.run(call)


def ended(store: Store, *receivers: Receiver, **options: float) -> str:
    job_id = enqueue(store, *receivers, **options)  # type: ignore[arg-type]
    end(store, job_id)
    return job_id


def answers(store: Store, host: str = "example.com:443") -> None:
    """Let the host be known to answer soon: it gets as many at once as its receivers allow."""
    store.client.set(keys.BRISK + host, "1")


def pick(store: Store, *claims: str, worker: str = "d") -> list[Taken]:
    """Take deliveries."""
    call = verb.take(WEBHOOKS, worker, claims, lease_seconds=LEASE, headroom=2, capacity=2, max_takes=50)
    answer = store.run(call)
    assert isinstance(answer, tuple)
    return list(answer)


def pick_one(store: Store) -> Taken:
    """Take a delivery, which is there."""
    (taken,) = pick(store, secrets.token_hex(8))
    return taken


def beat(store: Store, worker: str = "d", reason: str | None = None) -> None:
    """Let a deliverer say that it lives, and why its gate is closed if it is."""
    said = {
        "state": "ready",
        "slots": 32,
        "running": 0,
        "gate": {"open": not reason, "reason": reason},
        "version": __version__,
    }
    board.renew(store, model=WEBHOOKS, worker=worker, info=said)


def fail(api: ApiServer, worker: FakeWorker) -> str:
    """Submit a job that calls back, and let it fail; its id."""
    job_id = api.submit_id(webhook=HOOK)
    worker.finish(worker.begin(), "broke", Status.FAILED)
    return job_id


def settle(
    store: Store,
    taken: Taken,
    outcome: letter.Outcome = "delivered",
    attempt: Attempt = DONE,
    delay: float = 0,
    slow: bool = False,
) -> bool:
    return store.run(letter.settle(taken.job_id, taken.claim, outcome, attempt, delay_seconds=delay, slow=slow))


def of(store: Store, job_id: str) -> Sequence[Delivery]:
    return store.run(letter.deliveries_of(job_id))


def tick(store: Store) -> None:
    board.reap(store, models=[MODEL, WEBHOOKS])


def reconcile(store: Store) -> list[str]:
    """A whole round of the check; the kinds of what it has mended."""
    return [kind for kind, _ in board.reconcile(store, models=[MODEL, WEBHOOKS])]
