"""A real deliverer on a real Redis: sends, tries again, and loses nothing however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from nowserving import keys, verb
from nowserving.delivery import WEBHOOKS, Delivery, DeliveryStatus
from nowserving.store import Store, connect
from tests.deliverer_process import SECRET, DelivererProcess, deliverers, ready
from tests.letterbox import ended, of
from tests.mailbox import Mailbox
from tests.redis_server import RedisServer
from tests.worker_process import MODEL, ROOT

Eventually = Callable[..., None]
Start = Callable[..., DelivererProcess]

LEASE_SECONDS = 2.0


@pytest.fixture
def start(redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    def begin(**settings: object) -> DelivererProcess:
        process = DelivererProcess(redis_url, tmp_path, **{"lease_seconds": LEASE_SECONDS, **settings})
        request.addfinalizer(lambda: process.__exit__(None, None, None))
        return process.start()

    return begin


def only(store: Store, job_id: str) -> Delivery:
    (delivery,) = of(store, job_id)
    return delivery


def status(store: Store, job_id: str) -> DeliveryStatus:
    return only(store, job_id).status


def test_a_webhook_is_delivered_signed_and_told(
    live: Store, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    start()
    eventually(lambda: ready(live), 20)
    job_id = ended(live, mailbox.receiver())
    eventually(lambda: status(live, job_id) is DeliveryStatus.DELIVERED, 10)
    (letter,) = mailbox.letters
    payload = letter.verify(SECRET)
    assert isinstance(payload, dict)
    assert (payload["type"], payload["data"]["id"]) == ("job.succeeded", job_id)
    assert letter.headers["user-agent"].startswith("nowserving/")
    delivery = only(live, job_id)
    assert (delivery.id, delivery.tries) == (letter.id, 1)
    (attempt,) = delivery.attempts
    assert (attempt.status, attempt.error) == (204, None)
    assert abs(attempt.at - letter.at) < 2
    (told,) = deliverers(live)
    assert (told["state"], told["slots"], told["gate"]) == ("ready", 32, {"open": True, "reason": None})


def test_an_idle_deliverer_sends_at_once(live: Store, start: Start, mailbox: Mailbox, eventually: Eventually) -> None:
    start(lease_seconds=15)
    eventually(lambda: ready(live), 20)
    waits = []
    for _ in range(20):
        job_id = ended(live, mailbox.receiver())
        eventually(lambda job_id=job_id: status(live, job_id) is DeliveryStatus.DELIVERED)
        waits.append(mailbox.letters[-1].at - only(live, job_id).created_at)
    assert sorted(waits)[len(waits) // 2] < 0.05


def test_what_fails_comes_again_under_the_same_id_and_later_timestamps(
    live: Store, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    mailbox.answer = lambda letter: [500, 302, 404, 200][letter.nth - 1]
    start(webhook_retry_seconds="1.2,1.2,1.2")
    job_id = ended(live, mailbox.receiver())
    eventually(lambda: status(live, job_id) is DeliveryStatus.DELIVERED, 30)
    assert len(set(mailbox.ids)) == 1
    stamps = [letter.timestamp for letter in mailbox.letters]
    assert stamps == sorted(set(stamps))
    assert len({letter.body for letter in mailbox.letters}) == 1
    for letter in mailbox.letters:
        letter.verify(SECRET)
    assert [attempt.status for attempt in only(live, job_id).attempts] == [500, 302, 404, 200]


def test_a_retry_after_is_kept_to(live: Store, start: Start, mailbox: Mailbox, eventually: Eventually) -> None:
    mailbox.answer = lambda letter: (429, {"retry-after": "2"}) if letter.nth == 1 else 204
    start()
    job_id = ended(live, mailbox.receiver())
    eventually(lambda: status(live, job_id) is DeliveryStatus.DELIVERED, 30)
    first, second = mailbox.letters
    assert second.at - first.at >= 2


def test_after_the_last_attempt_it_is_dead_and_a_receiver_that_is_gone_stops_it(
    live: Store, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    mailbox.answer = lambda letter: 410 if letter.path == "/gone" else 500
    start(webhook_retry_seconds="0.1,0.1")
    dead = ended(live, mailbox.receiver())
    gone = ended(live, mailbox.receiver().model_copy(update={"url": mailbox.receiver().url.replace("/hook", "/gone")}))
    eventually(lambda: status(live, dead) is DeliveryStatus.DEAD, 30)
    eventually(lambda: status(live, gone) is DeliveryStatus.STOPPED, 30)
    assert Counter(letter.path for letter in mailbox.letters) == {"/hook": 3, "/gone": 1}


def test_where_the_policy_forbids_nothing_is_sent(
    live: Store, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    start(webhook_allow="", webhook_retry_seconds="0.1")
    job_id = ended(live, mailbox.receiver())
    eventually(lambda: status(live, job_id) is DeliveryStatus.DEAD, 30)
    assert mailbox.letters == []
    refused = "refused: 127.0.0.1 may be reached by https only; NOWSERVING_WEBHOOK_ALLOW can allow it by http"
    assert [attempt.error for attempt in only(live, job_id).attempts] == [refused] * 2


def test_a_deliverer_killed_in_mid_send_loses_nothing(
    live: Store, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    mailbox.hold()
    first = start()
    job_id = ended(live, mailbox.receiver())
    eventually(lambda: mailbox.letters, 20)
    start()
    eventually(lambda: ready(live, 2), 20)
    first.kill()
    killed_at = time.monotonic()
    eventually(lambda: status(live, job_id) is DeliveryStatus.DELIVERED, 20)
    assert time.monotonic() - killed_at < LEASE_SECONDS + 2
    assert len(mailbox.ids) == 2
    assert len(set(mailbox.ids)) == 1
    assert only(live, job_id).tries == 1


def test_a_told_deliverer_finishes_what_it_sends_and_takes_no_more(
    live: Store, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    go = mailbox.hold()
    deliverer = start()
    sent = ended(live, mailbox.receiver())
    eventually(lambda: mailbox.letters, 20)
    deliverer.send(signal.SIGTERM)
    eventually(lambda: deliverers(live)[0]["gate"] == {"open": False, "reason": "draining"})
    waiting = ended(live, mailbox.receiver())
    go.set()
    assert deliverer.wait(10) == 0
    assert (status(live, sent), status(live, waiting)) == (DeliveryStatus.DELIVERED, DeliveryStatus.PENDING)
    assert len(mailbox.ids) == 1
    assert deliverers(live) == []
    left = [key for key in live.client.scan_iter("nowserving:*") if "held" in key or "busy" in key or "alive" in key]
    assert left == []


def test_a_second_signal_hands_back_what_it_sends(
    live: Store, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    mailbox.hold()
    deliverer = start(drain_seconds=60)
    job_id = ended(live, mailbox.receiver())
    eventually(lambda: mailbox.letters, 20)
    deliverer.send(signal.SIGTERM)
    eventually(lambda: deliverers(live)[0]["gate"] == {"open": False, "reason": "draining"})
    deliverer.send(signal.SIGTERM)
    told_at = time.monotonic()
    assert deliverer.wait(10) == 0
    assert time.monotonic() - told_at < 7
    assert status(live, job_id) is DeliveryStatus.PENDING
    start()
    eventually(lambda: status(live, job_id) is DeliveryStatus.DELIVERED, 20)
    assert len(set(mailbox.ids)) == 1


def test_a_deliverer_outlives_redis_and_tells_what_it_sent_meanwhile(
    own_redis: RedisServer, mailbox: Mailbox, eventually: Eventually, tmp_path: Path
) -> None:
    go = mailbox.hold()
    store = Store(connect(own_redis.url))
    with DelivererProcess(own_redis.url, tmp_path, lease_seconds=15) as deliverer:
        before = ended(store, mailbox.receiver())
        eventually(lambda: mailbox.letters, 20)
        own_redis.kill()
        go.set()
        time.sleep(3)
        own_redis.start()
        after = ended(store, mailbox.receiver())
        eventually(lambda: {status(store, job_id) for job_id in (before, after)} == {DeliveryStatus.DELIVERED}, 30)
        assert deliverer.alive
    assert len(mailbox.ids) == len(set(mailbox.ids)) == 2
    store.close()


def test_celerys_remote_control_pauses_it(
    live: Store, redis_url: str, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    def control(*words: str) -> str:
        command = [sys.executable, "-m", "celery", "-A", "workers.app", *words, "--timeout", "5", "-d", deliverer.node]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "NOWSERVING_REDIS_URL": redis_url}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout

    deliverer = start()
    eventually(lambda: ready(live), 20)
    assert "pong" in control("inspect", "ping")
    control("control", "cancel_consumer", keys.queue(WEBHOOKS))
    eventually(lambda: deliverers(live)[0]["gate"] == {"open": False, "reason": "draining"}, 10)
    job_id = ended(live, mailbox.receiver())
    time.sleep(0.5)
    assert status(live, job_id) is DeliveryStatus.PENDING
    control("control", "add_consumer", keys.queue(WEBHOOKS))
    eventually(lambda: status(live, job_id) is DeliveryStatus.DELIVERED, 10)
    assert len(mailbox.ids) == 1


def test_nobody_can_send_to_the_queue_of_webhooks_or_a_webhook_to_a_models(live: Store, redis_url: str) -> None:
    app = Celery(broker=redis_url)
    app.conf.broker_transport = "workers.transport:Transport"
    for task in ("nowserving.deliver", "nowserving.generate"):
        with pytest.raises(Exception, match="nothing can be sent"):
            app.send_task(task, kwargs={"input": {"prompt": "x"}}, queue=keys.queue(WEBHOOKS), retry=False)
    with pytest.raises(Exception, match="takes the task"):
        app.send_task("nowserving.deliver", queue=keys.queue(MODEL), retry=False)
    job = {"input": {"prompt": "x"}, "webhook": {"url": "https://example.com/", "secret": SECRET}}
    with pytest.raises(Exception, match="webhook") as refused:
        app.send_task("nowserving.generate", kwargs=job, queue=keys.queue(MODEL), retry=False)
    assert SECRET not in str(refused.value)
    app.close()
    assert list(live.client.scan_iter("nowserving:queue:*")) == []


def test_an_idle_deliverer_costs_redis_little(own_redis: RedisServer, eventually: Eventually, tmp_path: Path) -> None:
    store = Store(connect(own_redis.url))
    commands: list[str] = []
    settle_seconds = 2.0  # Celery's own start goes on for a moment after it is ready
    with DelivererProcess(own_redis.url, tmp_path, lease_seconds=15):
        eventually(lambda: ready(store), 20)
        with store.client.monitor() as monitor:  # type: ignore[no-untyped-call]
            began = time.monotonic()
            while time.monotonic() - began < settle_seconds + 6:
                command = monitor.next_command() if monitor.connection.can_read(timeout=0.5) else None
                settled = time.monotonic() - began > settle_seconds
                if command and settled and command["client_type"] != "lua":
                    commands.append(command["command"].split()[0])
    store.close()
    assert len(commands) / 6 <= 5, Counter(commands)


def test_a_deliverers_process_has_no_engine_in_it(redis_url: str) -> None:
    check = "import sys\nfrom workers.app import serve\nserve('@webhooks')\nprint(*sys.modules, sep='\\n')"
    env = {"PYTHONPATH": str(ROOT), "NOWSERVING_REDIS_URL": redis_url, "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "workers.deliverer" in modules
    assert not modules & {"torch", "transformers", "numpy", "workers.worker", "workers.engines"}


def test_a_retry_outlives_its_deliverer_and_is_sent_by_the_next(
    live: Store, start: Start, mailbox: Mailbox, eventually: Eventually
) -> None:
    mailbox.answer = lambda letter: 500 if letter.nth == 1 else 204
    deliverer = start(webhook_retry_seconds="1")
    job_id = ended(live, mailbox.receiver())
    eventually(lambda: only(live, job_id).next_attempt_at is not None, 20)
    deliverer.kill()
    assert live.run(verb.queues([WEBHOOKS]))[0].delayed == 1
    start()
    eventually(lambda: status(live, job_id) is DeliveryStatus.DELIVERED, 20)
    assert len(set(mailbox.ids)) == 1
