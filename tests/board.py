"""Short names for the store's verbs, as the contract's tests use them: one model, one clock set by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nowserving import verb
from nowserving.answer import Beat, Queue, Reaped, Suspect, Taken, Unfit
from nowserving.job import Job, Status, Submission, fields_of, new_job_id
from nowserving.store import Store

MODEL = "m"
LEASE = 10.0


def at(store: Store, seconds: float) -> None:
    store.now = repr(1000 + seconds)


def enqueue(store: Store, job_id: str = "", lane: str = "normal", **options: object) -> str:
    job_id = job_id or new_job_id()
    body = {"model": MODEL, "input": {"prompt": "hello"}, "lane": lane}
    fields = fields_of(Submission.model_validate(body), seed=1)
    return store.run(verb.enqueue(job_id, MODEL, fields, **{"max_depth": 100, **options})).job_id  # type: ignore[arg-type]


def take(
    store: Store, claim: str, worker: str = "w", headroom: int = 1000, capacity: int = 1000
) -> Taken | Unfit | Suspect | None:
    call = verb.take(
        MODEL,
        worker,
        [claim],
        lease_seconds=LEASE,
        headroom=headroom,
        capacity=capacity,
        max_takes=50,
    )
    answer = store.run(call)
    if isinstance(answer, Unfit | Suspect):
        return answer
    return answer[0] if answer else None


def taken_id(store: Store, claim: str, worker: str = "w") -> str | None:
    answer = take(store, claim, worker)
    return answer.job_id if isinstance(answer, Taken) else None


ALWAYS = 1e12
"""A vigil that has never been broken."""


def renew(
    store: Store,
    *claims: str,
    model: str = MODEL,
    worker: str = "w",
    draining: bool = False,
    blocked: bool = False,
    reap_until: float = 0,
    info: Mapping[str, object] = {"slots": 1},
) -> Beat:
    call = verb.renew(
        model,
        worker,
        claims,
        lease_seconds=LEASE,
        draining=draining,
        blocked=blocked,
        reap_until=reap_until,
        max_attempts=3,
        info=info,
    )
    return store.run(call)


def reap(store: Store, reap_until: float = ALWAYS, models: Sequence[str] = (MODEL,)) -> Reaped:
    return store.run(verb.reap("me", models, period_seconds=0, max_attempts=3, reap_until=reap_until))


def look(store: Store, job_id: str) -> Job:
    return store.run(verb.look(job_id)).job


def queue(store: Store) -> Queue:
    return store.run(verb.queues([MODEL]))[0]


def texts(store: Store, job_id: str) -> list[tuple[str, object]]:
    events = store.run(verb.read_events({job_id: "0"}))[job_id]
    return [(event.type, event.data.get("index")) for event in events]


def reconcile(store: Store, limit: int = 200, models: Sequence[str] = (MODEL,)) -> list[tuple[str, str]]:
    """A whole round of the check; what it has mended: kind and of what."""
    mends: list[tuple[str, str]] = []
    cursor = ""
    while True:
        page = store.run(verb.reconcile("me", models, cursor, limit=limit))
        assert page is not None
        mends += page.mended
        cursor = page.cursor
        if not cursor:
            return mends


def goes_on(store: Store) -> None:
    """A job accepted now is taken and brought to its end."""
    job_id = enqueue(store)
    while (taken := taken_id(store, f"of {job_id}", worker="goes on")) != job_id:
        assert taken is not None
        store.run(verb.cancel(taken))
    assert store.run(verb.begin(job_id, f"of {job_id}", 1))
    assert store.run(verb.append(job_id, f"of {job_id}", 0, [1], "a"))
    assert store.run(verb.finish(job_id, f"of {job_id}", Status.SUCCEEDED, {"text": "a"}))
    assert look(store, job_id).status is Status.SUCCEEDED
    assert texts(store, job_id)[-1] == ("succeeded", None)
