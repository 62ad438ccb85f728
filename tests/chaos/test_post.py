"""Webhooks under fire: deliverers are killed in mid-send, and a host that never answers stands beside one that does."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles

import psutil
import pytest

from nowserving import keys, letter
from nowserving.answer import Tally
from nowserving.receiver import Receiver
from nowserving.store import Store
from tests.deliverer_process import SECRET, DelivererProcess, deliverers, ready
from tests.letterbox import ended, of
from tests.mailbox import Mailbox

DELIVERIES = int(os.environ.get("NOWSERVING_CHAOS_DELIVERIES", "300"))
KILLS = max(4, DELIVERIES // 50)
BESIDE_A_DEAD_HOST = int(os.environ.get("NOWSERVING_CHAOS_BESIDE", "1000"))
SEED = int(os.environ.get("NOWSERVING_CHAOS_SEED", "1"))
CONCURRENCY = 32

Eventually = Callable[..., None]


@pytest.fixture
def dead_hosts() -> Iterator[list[Receiver]]:
    """More hosts than a deliverer has threads, that take connections and never answer on one."""
    with ExitStack() as servers:
        receivers = []
        for _ in range(CONCURRENCY + 8):
            server = servers.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
            host = f"127.0.0.1:{server.getsockname()[1]}"
            receivers.append(Receiver(url=f"http://{host}/hook", host=host, limit=8))
        yield receivers


@pytest.mark.timeout(600)
def test_deliverers_killed_at_random_lose_no_event(
    live: Store,
    redis_url: str,
    mailbox: Mailbox,
    tmp_path: Path,
    eventually: Eventually,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chance = random.Random(SEED)

    slow = threading.Event()

    def answer_slowly(_: object) -> int:
        time.sleep((0.3 if slow.is_set() else 0.01) * chance.random())
        return 204

    mailbox.answer = answer_slowly
    processes = [DelivererProcess(redis_url, tmp_path, lease_seconds=1).start() for _ in range(2)]
    try:
        eventually(lambda: ready(live, 2), 30)
        jobs: list[str] = []
        for kill in range(KILLS):
            slow.set()  # so that some are under way when it is time to kill
            jobs += [ended(live, mailbox.receiver()) for _ in range(DELIVERIES // KILLS)]
            victim = processes[kill % 2]
            eventually(lambda victim=victim: holds(live, victim), 20)
            time.sleep(0.05 * chance.random())
            victim.kill()
            slow.clear()
            victim.start()
        jobs += [ended(live, mailbox.receiver()) for _ in range(DELIVERIES - len(jobs))]
        eventually(lambda: live.run(letter.tally()).delivered == len(jobs), 60)
    finally:
        for process in processes:
            process.kill()
    expected = {delivery.id for job_id in jobs for delivery in of(live, job_id)}
    came = Counter(mailbox.ids)
    for each in mailbox.letters:
        each.verify(SECRET)
    with capsys.disabled():
        again = came.total() - len(came)
        print(f"\n{len(expected)} deliveries, {KILLS} kills: lost {len(expected - came.keys())}, sent again {again}")
    assert came.keys() == expected
    assert live.run(letter.tally()) == Tally(0, 0, 0, 0, live.run(letter.tally()).attempts, DELIVERIES, 0, 0)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("dead", [1, CONCURRENCY + 8])
def test_dead_hosts_delay_no_live_one(
    live: Store,
    redis_url: str,
    mailbox: Mailbox,
    dead_hosts: list[Receiver],
    dead: int,
    tmp_path: Path,
    eventually: Eventually,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"webhook_concurrency": CONCURRENCY, "webhook_retry_seconds": "5,300"}
    with DelivererProcess(redis_url, tmp_path, **settings) as deliverer:
        eventually(lambda: ready(live), 30)
        sockets = Sockets(deliverer.pid)
        jobs = []
        ended(live, mailbox.receiver())  # from here on it is known to answer
        eventually(lambda: live.run(letter.tally()).delivered == 1, 20)
        for number in range(BESIDE_A_DEAD_HOST // 2):
            ended(live, dead_hosts[number % dead])
            jobs.append(ended(live, mailbox.receiver()))
        eventually(lambda: live.run(letter.tally()).delivered == len(jobs) + 1, 60)
        most_sockets = sockets.stop()
    born = {delivery.id: delivery.created_at for job_id in jobs for delivery in of(live, job_id)}
    delays = [each.at - born[each.id] for each in mailbox.letters if each.id in born]
    p99 = quantiles(delays, n=100)[98]
    with capsys.disabled():
        share = f"{len(jobs)} to a live host beside as many to {dead} dead"
        print(
            f"\n{share}: p50 {quantiles(delays, n=2)[0] * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, {most_sockets} sockets"
        )
    assert Counter(each for each in mailbox.ids if each in born) == dict.fromkeys(born, 1)
    assert p99 < 1
    assert most_sockets <= CONCURRENCY + 16, "beside the sends there are Redis's and Celery's own"


def holds(store: Store, deliverer: DelivererProcess) -> bool:
    """Whether this life of the process has deliveries under way."""
    names = [str(each["name"]) for each in deliverers(store)]
    return any(store.client.hlen(keys.HELD + name) for name in names if f":{deliverer.pid}:" in name)


class Sockets:
    """Counts a process's open connections, again and again."""

    def __init__(self, pid: int) -> None:
        self._process, self._most = psutil.Process(pid), 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The most there were."""
        self._stopping.set()
        self._thread.join()
        return self._most

    def _run(self) -> None:
        while not self._stopping.wait(0.05):
            self._most = max(self._most, len(self._process.net_connections()))
