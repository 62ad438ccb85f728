"""The contract of reconcile, on fakeredis and on a real Redis: by one at a time, page by page, also if it is full."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nowserving import keys, verb
from nowserving.errors import StoreFullError
from nowserving.store import Store, connect
from tests.board import MODEL, enqueue, queue, reconcile, taken_id

QUEUE = keys.queue(MODEL)


@pytest.fixture(autouse=True)
def _fixed_clock(store: Store) -> None:
    store.now = "1000"


def test_one_process_at_a_time_reconciles(store: Store) -> None:
    def ask(who: str) -> bool:
        return store.run(verb.reconcile(who, [MODEL], hold_seconds=60)) is not None

    assert ask("one")
    assert not ask("two")
    assert ask("one")
    store.client.delete(keys.RECONCILER)
    assert ask("two")
    store.client.set(keys.RECONCILER, "nobody")
    assert ask("one")


def test_a_page_is_bounded_and_goes_on_where_the_last_has_ended(store: Store) -> None:
    ids = [enqueue(store, max_depth=1000) for _ in range(450)]
    store.client.zrem(QUEUE, *ids)
    mended: list[str] = []
    pages, cursor = 0, ""
    while True:
        page = store.run(verb.reconcile("me", [MODEL], cursor))
        assert page is not None
        assert page.looked < 450
        mended += [job_id for _, job_id in page.mended]
        pages, cursor = pages + 1, page.cursor
        if not cursor:
            break
    assert sorted(mended) == sorted(ids)
    assert pages >= 3
    assert store.client.zrange(QUEUE, 0, -1) == ids


def test_a_full_redis_is_reconciled_too(redis_url: str) -> None:
    store = Store(connect(redis_url))
    job_id = enqueue(store)
    try:
        store.client.config_set("maxmemory", "1")
        with pytest.raises(StoreFullError):
            enqueue(store)
        store.client.config_set("maxmemory", "0")
        store.client.delete(QUEUE)
        store.client.rpush(QUEUE, *["x" * 1000] * 300)
        store.client.config_set("maxmemory", "1")
        assert sorted(kind for kind, _ in reconcile(store)) == ["queued_nowhere", "wrong_type"]
        assert queue(store).depth == 1
        assert taken_id(store, "c") == job_id
    finally:
        store.client.config_set("maxmemory", "0")
        store.close()


def test_a_page_keeps_redis_no_longer_than_some_thousand_reads_of_a_record(redis_url: str) -> None:
    store = Store(connect(redis_url))
    for _ in range(400):
        job_id = enqueue(store, max_depth=1000, start_within_seconds=3600)
    for i in range(200):
        taken_id(store, f"c{i}", worker=f"w{i % 20}")
    thousand = "for _ = 1, 1000 do redis.call('HGETALL', KEYS[1]) end"

    def usec(call: Callable[[], object], command: str) -> int:
        store.client.config_resetstat()
        call()
        stats = store.client.info("commandstats")
        return int(stats[f"cmdstat_{command}"]["usec"])

    pages, reads = [], []
    for _ in range(10):
        pages.append(usec(lambda: store.run(verb.reconcile("me", [MODEL], "")), "evalsha"))
        pages.append(usec(lambda: store.run(verb.reconcile("me", [MODEL], "1 0")), "evalsha"))
        reads.append(usec(lambda: store.client.eval(thousand, 1, keys.JOB + job_id), "eval"))
    store.close()
    # The least of each: what other processes do on this machine does not count.
    assert min(pages) < 4 * min(reads)
